// Reads a stream of Comet with a client from npm, for the tests in cmd/comet:
//
//	node read.mjs eventsource http://127.0.0.1:8080/push?...
//
// It writes a line of JSON for each thing that the client tells: {"open":true}, {"error":"..."}, and for a message
// {"id":"...","event":"...","data":"..."}. At the end of its input it exits.
const events = ['message', 'added', 'comet-session', 'comet-missed'];
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);

// listen reads with anything that is made like the EventSource of browsers.
function listen(source) {
	source.onopen = () => say({ open: true });
	source.onerror = (event) => say({ error: String(event?.message ?? event?.type) });
	for (const name of events) {
		source.addEventListener(name, ({ type, data, lastEventId }) => say({ id: lastEventId, event: type, data }));
	}
}

const clients = {
	async eventsource(url) {
		const { EventSource } = await import('eventsource');
		listen(new EventSource(url));
	},

	async 'reconnecting-eventsource'(url) {
		const { EventSource } = await import('eventsource');
		globalThis.EventSource = EventSource;
		const { default: module } = await import('reconnecting-eventsource');
		listen(new (module.default ?? module)(url, { max_retry_time: 200 }));
	},

	async 'fetch-event-source'(url) {
		// What it uses of a browser, beside fetch. Its import has no file extensions, which Node needs: the package's
		// CommonJS it takes as it is.
		globalThis.window = globalThis;
		globalThis.document = { addEventListener() {}, removeEventListener() {}, hidden: false };
		const { createRequire } = await import('node:module');
		const { fetchEventSource } = createRequire(import.meta.url)('@microsoft/fetch-event-source');
		await fetchEventSource(url, {
			openWhenHidden: true,
			async onopen(response) {
				if (!response.headers.get('content-type')?.startsWith('text/event-stream')) {
					throw new Error(`got ${response.status}`);
				}
				say({ open: true });
			},
			onmessage: ({ id, event, data }) => say({ id, event: event || 'message', data }),
			onclose() { throw new Error('closed'); }, // it comes back after an error alone
			onerror: (error) => say({ error: String(error) }) && undefined, // after the time that the server advised
		});
	},

	// A WebSocket comes back as its user has it do.
	async ws(url) {
		const { WebSocket } = await import('ws');
		const address = new URL(url.replace(/^http/, 'ws'));
		const connect = () => {
			const socket = new WebSocket(address);
			socket.on('open', () => say({ open: true }));
			socket.on('error', (error) => say({ error: error.message }));
			socket.on('message', (text) => {
				const told = JSON.parse(text);
				for (const message of told.messages ?? (told.field ? [told] : [])) {
					address.searchParams.set('after', message.cursor);
					say({ id: message.cursor, event: message.event ?? 'message', data: message.data });
				}
			});
			socket.on('close', () => setTimeout(connect, 50));
		};
		connect();
	},
};

const [name, url] = process.argv.slice(2);
clients[name](url).catch((error) => {
	console.error(error);
	process.exit(1);
});
process.stdin.on('end', () => process.exit(0)).resume();
