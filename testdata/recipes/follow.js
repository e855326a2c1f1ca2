// Caddy answers with this for a script that the pages of an application load: it loads that one, and follows the page.
{
	const own = new URL(document.currentScript.src);
	own.searchParams.set('own', '1');
	document.head.append(Object.assign(document.createElement('script'), { src: own, async: false }));
}

// What is shown of a page in DokuWiki, and of the front page in WordPress.
follow('.mode_show #dokuwiki__content, .home main');

// follow asks for its page again, which Caddy holds until something has changed, and takes over the part that a
// selector finds. A page without such a part is left alone.
async function follow(part) {
	if (document.readyState === 'loading') await new Promise((resume) => addEventListener('DOMContentLoaded', resume));
	const [page] = performance.getEntriesByType('navigation');
	let cursor = page.serverTiming?.find(({ name }) => name === 'comet')?.description;
	let leaves = new AbortController();
	addEventListener('pagehide', () => { // the browser may keep the page, and its request
		leaves.abort();
		leaves = new AbortController();
	});
	while (cursor && document.querySelector(part)) {
		try {
			const response = await fetch(location.href, {
				headers: { 'Comet-Cursor': cursor },
				cache: 'no-store',
				signal: AbortSignal.any([leaves.signal, AbortSignal.timeout(150_000)]),
			});
			if (response.status === 429 || response.status >= 500) throw response.status;
			const next = response.headers.get('Comet-Cursor');
			if (!next) return; // this address is not held
			if (response.status !== 204) {
				const changed = new DOMParser().parseFromString(await response.text(), 'text/html').querySelector(part);
				if (!changed) return location.reload();
				document.querySelector(part).replaceWith(changed);
			}
			cursor = next;
		} catch (error) {
			console.warn(error);
			await new Promise((resume) => setTimeout(resume, 2000 + 3000 * Math.random()));
		}
	}
}
