const door = process.env.COMET_DOOR ?? 'http://127.0.0.1:2080/config';

// publish tells the browsers, after the commit: await publish({ id: 123 }). It never fails: what goes wrong is logged.
export async function publish(values) {
	try {
		const response = await fetch(door, {
			method: 'POST',
			body: new URLSearchParams(values),
			redirect: 'error',
			signal: AbortSignal.timeout(1000),
		});
		const answer = await response.text();
		if (answer !== 'OK\n') throw new Error(`${response.status} ${answer}`);
	} catch (error) {
		console.error('not published:', error.cause ?? error);
	}
}
