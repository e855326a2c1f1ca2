// A browser with tabs, as far as comet.js sees it. Each tab has globals of its own,
// and what the tabs of a browser share is shared.

import { setMaxListeners } from 'node:events';
import fs from 'node:fs';
import vm from 'node:vm';

setMaxListeners(0); // a tab has as many as it wants

// The classic script, as it is served: COMET_CLASSIC names a file that has it.
const source = fs.readFileSync(new URL('../comet.js', import.meta.url), 'utf8');
const classic = process.env.COMET_CLASSIC
	? fs.readFileSync(process.env.COMET_CLASSIC, 'utf8')
	: `(() => {'use strict'; ${source.replace(/export .*\n$/, '')} globalThis.Comet = Comet; })()`;

export class Browser {
	locks = new Map(); // name → requests; the first has it
	channels = new Set();
	tabs = [];

	constructor(t, { shares = true } = {}) {
		this.shares = shares;
		t.after(() => this.tabs.forEach((tab) => tab.kill()));
	}

	// tab opens a tab.
	tab(globals) {
		const tab = new Tab(this, globals);
		this.tabs.push(tab);
		return tab;
	}
}

class Tab extends EventTarget {
	#browser;
	#timers = new Set();
	#gone = new AbortController();
	#kept = []; // what happens while it is frozen
	frozen = false;

	constructor(browser, globals) {
		super();
		this.#browser = browser;
		const tab = this;
		const gone = this.#gone.signal;
		const timer = (start, stop) => (callback, ms) => {
			const id = start(() => tab.run(callback), ms);
			tab.#timers.add(() => stop(id));
			return id;
		};
		const never = () => new Promise(() => {});
		this.document = new EventTarget();
		this.window = vm.createContext({
			URL, AbortController, TextDecoder, Event, EventTarget, queueMicrotask, atob, clearTimeout, clearInterval,
			setTimeout: timer(setTimeout, clearTimeout),
			setInterval: timer(setInterval, clearInterval),
			document: this.document,
			addEventListener: this.addEventListener.bind(this),
			fetch: (url, { signal, ...options }) => (gone.aborted ? never() : fetch(url, { ...options, signal: signal ? AbortSignal.any([signal, gone]) : gone })),
			EventSource: class extends EventSource { constructor(url) { super(url, tab, gone); } },
			navigator: browser.shares ? { locks: { request: (...args) => tab.#lock(...args) } } : {},
			...browser.shares && { BroadcastChannel: class extends Channel { constructor(name) { super(name, tab, browser); } } },
			...globals,
		});
		vm.runInContext(classic, this.window);
		this.Comet = this.window.Comet;
	}

	// run runs something in the tab; later, when it is frozen.
	run(callback) {
		if (this.#gone.signal.aborted) return;
		if (this.frozen) this.#kept.push(callback);
		else callback();
	}

	freeze() { this.frozen = true; }

	// forget has what happened since it was frozen lost.
	forget() { this.#kept = []; }

	thaw() {
		this.frozen = false;
		this.#kept.splice(0).forEach((callback) => callback());
	}

	hide(hidden = true) {
		this.document.hidden = hidden;
		this.document.dispatchEvent(new Event('visibilitychange'));
	}

	// kill ends the tab as a crash does: nothing of it runs any more.
	kill() {
		this.#gone.abort();
		this.#timers.forEach((stop) => stop());
		for (const channel of this.#browser.channels) if (channel.tab === this) this.#browser.channels.delete(channel);
		for (const [name, requests] of this.#browser.locks) {
			this.#browser.locks.set(name, requests.filter(({ tab }) => tab !== this));
			this.#grant(name);
		}
	}

	#lock(name, ...rest) {
		const callback = rest.pop();
		const { signal, steal } = rest[0] || {};
		return new Promise((resolve, reject) => {
			if (signal?.aborted) return reject(signal.reason);
			const requests = this.#browser.locks.get(name) || [];
			const request = { tab: this, callback, resolve, reject };
			if (steal) {
				if (requests[0]?.granted) {
					const robbed = requests.shift();
					robbed.tab.run(() => robbed.reject(new DOMException('stolen', 'AbortError')));
				}
				requests.unshift(request);
			} else {
				requests.push(request);
				signal?.addEventListener('abort', () => {
					const waiting = this.#browser.locks.get(name);
					if (request.granted || !waiting.includes(request)) return;
					waiting.splice(waiting.indexOf(request), 1);
					reject(signal.reason);
				});
			}
			this.#browser.locks.set(name, requests);
			this.#grant(name);
		});
	}

	#grant(name) {
		const first = this.#browser.locks.get(name)?.[0];
		if (!first || first.granted) return;
		first.granted = true;
		setImmediate(() => first.tab.run(async () => {
			const result = await first.callback();
			const requests = this.#browser.locks.get(name);
			if (requests[0] === first) {
				requests.shift();
				this.#grant(name);
			}
			first.resolve(result);
		}));
	}
}

class Channel {
	constructor(name, tab, browser) {
		Object.assign(this, { name, tab, browser });
		browser.channels.add(this);
	}

	postMessage(message) {
		if (this.closed) throw new DOMException('closed', 'InvalidStateError');
		if (!this.browser.channels.has(this)) return; // the tab is gone
		const data = structuredClone(message);
		for (const other of this.browser.channels) {
			if (other === this || other.name !== this.name) continue;
			setImmediate(() => other.tab.run(() => this.browser.channels.has(other) && other.onmessage({ data })));
		}
	}

	close() {
		this.closed = true;
		this.browser.channels.delete(this);
	}
}

// EventSource is one that does not connect again by itself: comet.js closes it
// before it could.
class EventSource extends EventTarget {
	readyState = 0;
	#closing = new AbortController();

	constructor(url, tab, gone) {
		super();
		this.#run(url, tab, AbortSignal.any([gone, this.#closing.signal]));
	}

	close() {
		this.readyState = 2;
		this.#closing.abort();
	}

	async #run(url, tab, signal) {
		try {
			const response = await fetch(url, { signal });
			if (response.status !== 200 || response.headers.get('Content-Type') !== 'text/event-stream') {
				this.readyState = 2;
				throw response.status;
			}
			this.readyState = 1;
			let text = '';
			for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
				const events = (text + piece).split('\n\n');
				text = events.pop();
				for (const event of events) tab.run(() => this.#dispatch(event));
			}
		} catch { /* told below */ }
		if (signal.aborted) return;
		this.readyState &&= this.readyState === 1 ? 0 : 2;
		tab.run(() => this.onerror?.(new Event('error')));
	}

	#dispatch(text) {
		if (this.readyState === 2) return;
		let name = 'message', data;
		for (const line of text.split('\n')) {
			if (line.startsWith('event: ')) name = line.slice(7);
			if (line.startsWith('data: ')) data = line.slice(6);
		}
		if (data !== undefined) this.dispatchEvent(Object.assign(new Event(name), { data }));
	}
}
