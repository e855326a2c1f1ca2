// Comet in the browser: it watches fields over whatever connection works. How to
// use it is in README.md beside this file.
//
// Of the tabs of a browser that watch the same URL one leads: it has the
// connection, and hands what it is told to the others. Each thing that it hands on
// names the cursor that it comes after. So a tab knows when it has missed
// something, and one that takes over goes on from where the leader was. It may have
// been frozen, and be behind the others: what it catches up with is past to them.
//
// Cursors are opaque: they are compared for being the same, and for nothing else.
//
// Comments and indentation are taken off when it is served, so two slashes between
// spaces begin a comment wherever they stand.

// What is tried, in this order, unless the page says what to use.
const ORDER = ['sse', 'stream', 'poll'];

// Statuses that say to come back later. Another 4xx says that it is no use.
const LATER = [408, 425, 429];

// Statuses by which a proxy says that it gave up waiting.
const GAVE_UP = [408, 502, 504, 524];

// How many cursors of messages are remembered, so that none is given twice.
const REMEMBERED = 5000;

// In seconds: the longest pause between attempts, apart from what a server asks
// for; how long a poll may be unanswered; how often this looks after itself; and
// the gap between two such looks that means that the machine slept. The timers of
// a hidden page may be a minute apart.
const LONGEST_PAUSE = 60;
const LONGEST_POLL = 130;
const LOOK = 10;
const SLEPT = 90;

// Why an attempt was ended from here.
const AGAIN = 1; // to begin the next at once
const SILENT = 2; // nothing came

const ignore = () => {};

class Comet extends EventTarget {
	#url;
	#options;
	#second; // in ms: the tests have shorter ones
	#state = 'waiting';
	#transport = '';
	#watched = new Map(); // field → functions to call
	#latest = new Map(); // field → its latest message; null: there was none
	#seen = new Set(); // cursors of messages
	#cursor;
	#page = new AbortController(); // ends what listens to the page
	#clock;
	#looked = 0;

	// The connection of the tab that leads.
	#leads = false;
	#ready = false; // it has caught up
	#running = false;
	#attempt;
	#rouse; // ends a pause
	#due = 0; // when it ends by itself; the timers of a hidden page may be late
	#opened = false;
	#session;
	#choice = 0; // index of ORDER
	#failures = 0;
	#retry = 2000;
	#silence = 0; // ms after which a silent stream is dead; 0: unknown
	#wait; // seconds that a hold is to last at most; undefined: as the server likes
	#lasted = 0; // ms that the last stream lasted which was cut
	#asked = 0;
	#heard = 0;

	// The other tabs.
	#id = Math.random().toString(36).slice(2);
	#name;
	#term = 0; // when the tab that leads began to; one that was frozen may not know that it leads no more
	#channel;
	#tabs = new Map(); // id → the fields that a tab wants
	#joined; // an AbortController: ends being one of the tabs
	#alone = false;
	#pinged = 0;
	#behind; // the cursor that this tab is catching up from
	#queue = []; // what is handed on meanwhile

	constructor(url = '/push', options = {}) {
		super();
		this.#options = options;
		this.#second = options.second || 1000;
		this.#url = new URL(url, globalThis.location?.href).href;
		const { transport, after, withCredentials, headers, share, signal } = options;
		this.#name = 'comet ' + [this.#url, transport, after, withCredentials];
		this.#alone = share === false || !!headers;
		const on = (target, name, listener) => target?.addEventListener?.(name, listener, { signal: this.#page.signal });
		on(globalThis, 'online', () => this.#wake());
		on(globalThis, 'pagehide', () => this.#leave());
		on(globalThis, 'pageshow', (event) => event.persisted && this.#join());
		on(globalThis.document, 'visibilitychange', () => this.#look(true));
		on(globalThis.document, 'resume', () => this.#look(true));
		on(signal, 'abort', () => this.close());
		if (signal?.aborted) this.close();
	}

	get state() { return this.#state; }
	get transport() { return this.#transport; }
	get cursor() { return this.#cursor; }

	watch(field, callback, { signal } = {}) {
		let stopped = false;
		const call = (message) => {
			if (stopped) return;
			try {
				callback(decode(message), message);
			} catch (error) {
				setTimeout(() => { throw error; }); // the page's own, and no reason to stop
			}
		};
		const stop = () => {
			stopped = true;
			const calls = this.#watched.get(field);
			if (calls?.delete(call) && !calls.size) {
				this.#watched.delete(field);
				this.#changed();
			}
		};
		// Not at once: it may be called for the very message that is being given.
		queueMicrotask(() => {
			if (stopped || signal?.aborted || this.#state === 'closed') return;
			signal?.addEventListener('abort', stop);
			const calls = this.#watched.get(field);
			if (calls) {
				calls.add(call);
			} else {
				this.#watched.set(field, new Set([call]));
				if (this.#joined) this.#changed();
				else this.#join();
			}
			const latest = this.#latest.get(field);
			if (latest) call(latest);
		});
		return stop;
	}

	close(details) {
		this.#become('closed', details);
		this.#leave();
		this.#watched.clear();
		this.#page.abort();
	}

	#become(state, details) {
		if (this.#state === state || this.#state === 'closed') return;
		this.#state = state;
		if (this.#leads && state !== 'closed') this.#hand({ state, transport: this.#transport });
		this.dispatchEvent(Object.assign(new Event(state), details));
	}

	// fields returns what all the tabs watch.
	#fields() {
		return new Set([...this.#watched.keys(), ...[...this.#tabs.values()].flat()]);
	}

	#changed() {
		this.#hand({ wants: [...this.#watched.keys()] });
		this.#sort();
	}

	// sort has the connection carry what is watched now.
	#sort() {
		const fields = this.#fields();
		const unwatch = [...this.#latest.keys()].filter((field) => !fields.has(field));
		unwatch.forEach((field) => this.#latest.delete(field));
		if (!this.#leads) return;
		if (!fields.size || [...fields].some((field) => !this.#latest.has(field))) {
			this.#cut(AGAIN);
			this.#run();
		} else if (unwatch.length && this.#session) {
			// If it fails, what nobody wants comes until the next connection, and is dropped.
			this.#fetch({ session: this.#session }, { method: 'POST', body: JSON.stringify({ unwatch }) }).catch(ignore);
		}
	}

	// --- What the server tells.

	// take is given a message, an answer with messages, or a word about a stream.
	#take(told) {
		const { cursor, session, retry, heartbeat, field } = told;
		if (session) this.#session = session;
		if (retry) this.#retry = retry;
		if (heartbeat) this.#silence = 2.5 * heartbeat;
		const after = this.#cursor;
		if (cursor) this.#cursor = cursor;
		const news = {
			after,
			cursor: this.#cursor,
			past: !this.#ready,
			missed: told.missed && (told.missed_fields || [...this.#fields()]),
			messages: told.messages || (field === undefined ? [] : [told]),
		};
		if (news.missed || news.messages.length || after !== this.#cursor) {
			this.#hand(news);
			this.#give(news);
		}
	}

	#give({ missed, messages }) {
		const fields = missed?.filter((field) => this.#watched.has(field));
		if (fields?.length) this.dispatchEvent(Object.assign(new Event('missed'), { fields }));
		for (const message of messages) {
			const { field, cursor } = message;
			if (this.#seen.has(cursor) || this.#latest.get(field)?.cursor === cursor || !this.#fields().has(field)) continue;
			this.#seen.add(cursor);
			if (this.#seen.size > REMEMBERED) this.#seen.delete(this.#seen.values().next().value);
			this.#latest.set(field, message);
			this.#watched.get(field)?.forEach((call) => call(message));
		}
	}

	// --- The connection.

	#address(query) {
		const url = new URL(this.#url);
		for (const [name, values] of Object.entries(query)) {
			for (const value of [values].flat()) {
				if (value !== undefined) url.searchParams.append(name, value);
			}
		}
		return url.href;
	}

	async #fetch(query, more) {
		const { headers, withCredentials } = this.#options;
		const response = await fetch(this.#address(query), {
			headers, cache: 'no-store', credentials: withCredentials ? 'include' : 'same-origin', ...more,
		});
		if (response.ok) return response;
		const reason = (await response.text()).trim();
		throw { status: response.status, reason, after: response.headers.get('Retry-After') * 1000 || 0 };
	}

	async #ask(query, signal) {
		this.#asked = this.#heard = Date.now();
		return (await this.#fetch({ format: 'json', ...query }, { signal })).json();
	}

	// stream returns what is asked of a stream.
	#stream(format) {
		return { format, field: [...this.#fields()], after: this.#cursor, wait: this.#wait };
	}

	#cut(why) {
		if (this.#attempt) {
			this.#attempt.why ||= why;
			this.#attempt.abort();
		}
		if (why === AGAIN) this.#rouse?.();
	}

	// run connects, and connects again, while this tab leads and something is watched.
	async #run() {
		if (this.#running) return;
		this.#running = true;
		let reached = false; // whether the server has answered since the last pause
		while (this.#leads && this.#fields().size) {
			const { transport } = this.#options;
			const name = this.#transport = transport || ORDER[this.#choice];
			const attempt = this.#attempt = new AbortController();
			const { signal } = attempt;
			let timer, error;
			this.#session = '';
			this.#opened = false;
			this.#become('connecting');
			try {
				await this.#present(signal, reached);
				reached = true;
				if (signal.aborted) continue;
				if (!this.#ready) {
					this.#ready = true;
					this.#welcome();
				}
				this.#asked = this.#heard = Date.now();
				if (name !== 'poll') timer = setTimeout(() => this.#opened || this.#cut(SILENT), (this.#options.patience || 5) * this.#second);
				await { sse: this.#viaEventSource, stream: this.#viaFetch, poll: this.#viaPolls, ws: this.#viaWebSocket }[name].call(this, signal);
			} catch (caught) {
				error = caught;
			}
			clearTimeout(timer);
			if (attempt.why === AGAIN) {
				reached = false;
				continue;
			}
			const { status, after = 0, early } = error || {};
			const lasted = Date.now() - this.#asked;
			const later = status >= 500 || LATER.includes(status);

			// The server answers, but not in this way: a proxy keeps it back, or it is not
			// offered. What EventSource was refused for, the next one is told.
			if (reached && !this.#opened && !transport && !later && name !== 'poll') {
				this.#choice++;
				continue;
			}
			if (status > 199 && !later) { // below: its head was cut
				this.#refused(error);
				continue;
			}
			if (status && name === 'stream') this.#choice = 0;

			// A poll that was cut would be cut again after that time. A stream that was may
			// have been so for any reason, unless it is a second time.
			if (this.#opened && !early && !attempt.why && lasted > 5 * this.#second && (!status || GAVE_UP.includes(status))) {
				const asWished = lasted > .9 * this.#wait * this.#second;
				const asBefore = lasted > this.#lasted * .8 && lasted < this.#lasted * 1.25;
				this.#lasted = lasted;
				if (asWished && name !== 'poll') continue;
				if (asBefore || name === 'poll') this.#wait = Math.floor(lasted * .8 / this.#second);
			}

			reached = false;
			const least = Math.min(this.#retry * 2 ** this.#failures++, LONGEST_PAUSE * this.#second);
			const pause = Math.max(after, least) * (1 + Math.random() / 2);
			this.#due = Date.now() + pause;
			this.#become('waiting');
			await new Promise((resolve) => {
				this.#rouse = resolve;
				setTimeout(resolve, pause);
			});
		}
		this.#running = false;
		this.#become('waiting');
	}

	// present asks for the present state of fields that were not watched before; and,
	// unless the server was reached already, for what came meanwhile.
	//
	// The state of a new field is given only when nothing came for it after the
	// cursor: what did will come again from there, and in order.
	async #present(signal, reached) {
		const fields = [...this.#fields()];
		const fresh = fields.filter((field) => !this.#latest.has(field));
		const begin = !this.#cursor;
		let states = [];
		if (fresh.length) {
			const state = await this.#ask({ field: fresh, after: begin ? this.#options.after : undefined, wait: 0 }, signal);
			if (begin) this.#take(state);
			else states = state.messages;
		}
		if (states.length || !begin && !reached) {
			const answers = [];
			let after = this.#cursor, full;
			do {
				const answer = await this.#ask({ field: fields, after, wait: 0 }, signal);
				answers.push(answer);
				after = answer.cursor;
				full = JSON.stringify(answer).length > 5e5; // an answer has up to 1 MiB
			} while (full);
			const later = new Set(answers.flatMap(({ messages }) => messages.map(({ field }) => field)));
			states = { messages: states.filter(({ field }) => !later.has(field)) };
			this.#hand({ states });
			this.#give(states);
			answers.forEach((answer) => this.#take(answer));
		}
		fresh.forEach((field) => this.#latest.has(field) || this.#latest.set(field, null));
	}

	// hear is given what the server tells by the transport that was chosen.
	#hear(told) {
		this.#heard = Date.now();
		this.#opened = true;
		this.#failures = 0;
		this.#become('open');
		this.#take(told);
	}

	#viaEventSource(signal) {
		const { headers, withCredentials } = this.#options;
		if (!globalThis.EventSource || headers) throw {};
		const source = new EventSource(this.#address({ ...this.#stream('sse'), wrap: 'json' }), { withCredentials });
		return new Promise((_, reject) => {
			const hear = ({ data }) => this.#hear(JSON.parse(data));
			for (const name of ['message', 'comet-session', 'comet-missed', 'comet-heartbeat']) source.addEventListener(name, hear);
			source.onerror = signal.onabort = reject;
		}).finally(() => source.close());
	}

	async #viaFetch(signal) {
		const { body } = await this.#fetch(this.#stream('ndjson'), { signal });
		const reader = body.getReader();
		const decoder = new TextDecoder();
		for (let rest = ''; ;) {
			const { done, value } = await reader.read();
			if (done) return;
			this.#heard = Date.now();
			const lines = (rest + decoder.decode(value, { stream: true })).split('\n');
			rest = lines.pop();
			for (const line of lines) {
				if (line.trim()) this.#hear(JSON.parse(line));
			}
		}
	}

	// viaPolls asks once without waiting, to know that the server answers.
	async #viaPolls(signal) {
		for (let wait = 0; ; wait = this.#wait) {
			const answer = await this.#ask({ ...this.#stream('json'), wait }, signal);
			this.#hear(answer);
			// What holds nobody is not to be asked without a pause.
			if (wait !== 0 && !answer.messages.length && Date.now() - this.#asked < this.#second) throw { early: true };
		}
	}

	#viaWebSocket(signal) {
		const socket = new WebSocket(this.#address(this.#stream('ws')).replace('http', 'ws'));
		return new Promise((_, reject) => {
			socket.onopen = () => this.#hear({});
			socket.onmessage = ({ data }) => this.#hear(JSON.parse(data));
			socket.onclose = signal.onabort = reject;
		}).finally(() => socket.close());
	}

	// --- The page.

	// wake begins anew: the machine slept, or has another network.
	#wake() {
		this.#choice = this.#lasted = 0;
		this.#wait = undefined;
		this.#cut(AGAIN);
	}

	// look sees to what nothing tells: that time was lost, and that nothing comes.
	#look(turned) {
		const now = Date.now();
		const slept = this.#looked && now - this.#looked > SLEPT * this.#second;
		const visible = !globalThis.document?.hidden;
		this.#looked = now;
		if (this.#leads) {
			const silence = this.#transport === 'poll' ? LONGEST_POLL * this.#second : this.#silence;
			if (slept) this.#wake();
			else if (this.#opened && silence && now - this.#heard > silence) this.#cut(AGAIN);
			else if (this.#state === 'waiting' && (turned && visible || now > this.#due)) this.#rouse?.();
		} else if (this.#channel && visible && !turned) {
			// A tab in the background may be frozen and lead all the same.
			if (this.#heard < this.#pinged) this.#claim({ steal: true });
			this.#pinged = now;
			this.#hand({ ping: true });
		}
	}

	// --- The tabs.

	// join makes this one of the tabs that share a connection; or has one for itself.
	#join() {
		if (this.#joined || !this.#watched.size) return;
		const { signal } = this.#joined = new AbortController();
		this.#looked = this.#pinged = 0;
		this.#clock = setInterval(() => this.#look(), LOOK * this.#second);
		try {
			if (this.#alone || !navigator.locks) throw 0;
			this.#channel = new BroadcastChannel(this.#name);
		} catch {
			this.#lead();
			return;
		}
		this.#channel.onmessage = ({ data }) => this.#handed(data);
		// Whoever gets this lock knows that the tab is gone.
		this.#lock(this.#id, () => {
			this.#hand({ wants: [...this.#watched.keys()], hello: true });
			return ended(signal);
		}).catch(ignore);
		this.#claim();
	}

	#lock(name, callback, options = { signal: this.#joined.signal }) {
		return navigator.locks.request(this.#name + ' ' + name, options, callback);
	}

	// claim waits to be the tab that leads.
	#claim(options) {
		const { signal } = this.#joined;
		this.#lock('leads', () => {
			this.#lead();
			return ended(signal);
		}, options).catch(({ name }) => {
			if (signal.aborted) return;
			// Another tab took it from this one, which did not answer; or there are no locks here.
			if (name !== 'AbortError') this.#alone = true;
			this.#leave();
			this.#join();
		});
	}

	#lead() {
		if (this.#leads) return;
		this.#leads = true;
		this.#ready = false;
		this.#term = Math.max(Date.now(), this.#term + 1);
		this.#cursor = this.#behind || this.#cursor;
		this.#behind = undefined;
		this.#hand({ wants: [...this.#watched.keys()], hello: true, leads: true });
		this.#run();
	}

	#leave() {
		if (!this.#joined) return;
		clearInterval(this.#clock);
		this.#cut(AGAIN);
		this.#become('waiting');
		this.#hand({ wants: [] });
		this.#channel?.close();
		this.#channel = undefined;
		this.#leads = false;
		this.#cursor = this.#behind || this.#cursor;
		this.#behind = undefined;
		this.#tabs.clear();
		this.#joined.abort();
		this.#joined = undefined;
	}

	// refused ends it when the server does not allow what is asked. When there are
	// other tabs each asks for itself from now on, since it may be for one of them.
	#refused({ status, reason }) {
		if (!this.#tabs.size) return this.close({ status, reason });
		this.#hand({ apart: true });
		this.#part();
	}

	#part() {
		this.#alone = true;
		this.#leave();
		this.#join();
	}

	#hand(thing) { this.#channel?.postMessage({ id: this.#id, term: this.#term, ...thing }); }

	#handed(thing) {
		const { id, wants, to } = thing;
		if (thing.apart) return this.#part();
		if (wants) {
			if (!wants.length) {
				this.#tabs.delete(id);
			} else {
				if (!this.#tabs.has(id)) this.#lock(id, () => { this.#tabs.delete(id); this.#sort(); }).catch(ignore);
				this.#tabs.set(id, wants);
				if (thing.hello) this.#hand({ wants: [...this.#watched.keys()], known: !thing.leads });
			}
			if (this.#leads && !thing.known) this.#welcome(id);
			this.#sort();
			return;
		}
		if (this.#leads) {
			if (thing.ping) {
				this.#look();
				this.#welcome(id);
			}
			return;
		}
		if (thing.ping || to && to !== this.#id || thing.term < this.#term) return;
		this.#term = thing.term;
		this.#heard = Date.now();
		if (thing.state) {
			this.#transport = thing.transport;
			this.#choice = Math.max(0, ORDER.indexOf(thing.transport)); // what works for one does for all
			this.#become(thing.state);
		}
		if (thing.states) this.#begin(thing.states.messages);
		if (thing.latest) this.#welcomed(thing);
		else if (thing.messages) this.#follow(thing);
	}

	// welcome tells a tab, or all, where this one is, and what it knows.
	#welcome(to) {
		const latest = this.#ready && [...this.#latest.values()].filter((message) => message);
		this.#hand({ to, cursor: this.#cursor, latest, state: this.#state, transport: this.#transport });
	}

	// begin is given the state of fields, some of which may be new to this tab.
	#begin(messages) {
		this.#give({ messages: messages.filter(({ field }) => !this.#latest.has(field)) });
	}

	#welcomed({ cursor, latest }) {
		this.#begin(latest);
		this.#cursor ||= cursor;
		this.#follow({ after: cursor, cursor, messages: [] });
	}

	// follow is given what the tab that leads was told.
	#follow(news) {
		if (!this.#behind && news.after === this.#cursor) {
			this.#cursor = news.cursor;
			this.#give(news);
		} else if (this.#cursor && !news.past) {
			if (this.#behind) return this.#queue.push(news);
			this.#behind = this.#cursor;
			this.#queue = [news];
			this.#catchUp(this.#joined.signal);
		}
	}

	// catchUp asks for what was missed of what is handed on, which may be given again
	// then, and is dropped. It goes on from the cursor of the tab that leads.
	async #catchUp(signal) {
		try {
			for (let after = this.#behind, more = true; more;) {
				const answer = await this.#ask({ field: [...this.#watched.keys()], after, wait: 0 }, signal);
				if (!this.#behind) return; // it leads now
				const { missed, missed_fields = [...this.#watched.keys()], messages } = answer;
				this.#give({ missed: missed && missed_fields, messages });
				after = answer.cursor;
				more = messages.length;
			}
		} catch {
			if (this.#behind) setTimeout(() => signal.aborted || !this.#behind || this.#catchUp(signal), this.#retry);
			return;
		}
		const queue = this.#queue;
		this.#behind = undefined;
		this.#cursor = queue[0].after;
		queue.forEach((news) => this.#follow(news));
	}
}

// ended returns what waits until a signal is aborted.
const ended = (signal) => new Promise((resolve) => {
	if (signal.aborted) resolve();
	signal.addEventListener('abort', resolve);
});

// decode returns the data of a message: bytes, where it was sent as base64.
const decode = ({ data, encoding }) => (encoding === 'base64' ? Uint8Array.from(atob(data), (c) => c.charCodeAt(0)) : data);

export { Comet, Comet as default };
