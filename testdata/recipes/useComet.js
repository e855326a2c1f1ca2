import { useEffect, useRef } from 'react';

// useComet calls onMessage with each message of the fields, the latest of each first, while the component is there:
//
//	useComet(['news', `board/${id}`], ({ field, data }) => ..., { onMissed: reload });
//
// After a gap it calls onMissed before: ask the application for what there is now.
export function useComet(fields, onMessage, { url = '/push', onMissed } = {}) {
	const handlers = useRef({});
	useEffect(() => { handlers.current = { onMessage, onMissed }; });

	const address = `${url}?format=json&${new URLSearchParams(fields.map((name) => ['field', name]))}`;
	const place = useRef({});
	useEffect(() => {
		if (place.current.address !== address) place.current = { address, after: '', retry: 2000 };
		const gone = new AbortController();
		follow(place.current, handlers, gone.signal);
		return () => gone.abort();
	}, [address]);
}

async function follow(place, handlers, gone) {
	while (!gone.aborted) {
		try {
			const response = await fetch(`${place.address}&after=${encodeURIComponent(place.after)}`, {
				cache: 'no-store',
				signal: AbortSignal.any([gone, AbortSignal.timeout(150_000)]),
			});
			if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
			const answer = await response.json();
			if (gone.aborted) return;
			place.after = answer.cursor;
			place.retry = answer.retry;
			if (answer.missed) handlers.current.onMissed?.(answer.missed_fields);
			for (const message of answer.messages) {
				place.after = message.cursor; // when onMessage fails it goes on with the next
				handlers.current.onMessage(message);
			}
			place.after = answer.cursor;
		} catch (error) {
			if (gone.aborted) return;
			console.warn(error);
			await new Promise((resume) => setTimeout(resume, place.retry * (0.5 + Math.random())));
		}
	}
}
