// A server that speaks what Comet speaks, as far as comet.js uses it, with the
// faults that networks and proxies have.

import http from 'node:http';

export class Server {
	messages = [];
	requests = []; // of each: url, method, body
	kept = 0; // messages before this one are forgotten
	epoch = 'e';
	second = 50; // in ms
	retry = 20;
	heartbeat = 0;
	cutAfter = 0; // ms after which what is held is cut, as by a proxy
	buffered = []; // formats that a proxy keeps back
	statuses = {}; // format → what it is refused with
	forbidden = [];
	instant = false; // holds end at once
	#held = new Set();
	#sockets = new Set();

	static async start(t, options = {}) {
		const server = Object.assign(new Server(), options);
		server.http = http.createServer((request, response) => server.#serve(request, response));
		server.http.on('connection', (socket) => {
			server.#sockets.add(socket);
			socket.on('close', () => server.#sockets.delete(socket));
			socket.on('error', () => {});
		});
		await new Promise((resolve) => server.http.listen(0, '127.0.0.1', resolve));
		server.url = `http://127.0.0.1:${server.http.address().port}/push`;
		t.after(() => server.stop());
		return server;
	}

	stop() {
		this.http.close();
		for (const socket of this.#sockets) socket.destroy();
	}

	// publish adds a message to a field.
	publish(field, data, more = {}) {
		const cursor = `${this.epoch}.${this.messages.length + 1}`;
		this.messages.push({ field, data, cursor, time: new Date().toISOString(), ...more });
		for (const held of [...this.#held]) held.look();
	}

	// cut ends all connections, in the middle of something where that can be.
	cut() {
		for (const held of [...this.#held]) held.cut();
		for (const socket of this.#sockets) socket.destroy();
	}

	// stall leaves connections open, and sends nothing any more.
	stall() {
		for (const held of [...this.#held]) held.end();
	}

	// restart forgets the cursors that clients have.
	restart() {
		this.epoch += 'e';
		this.messages = this.messages.map((message, i) => ({ ...message, cursor: `${this.epoch}.${i + 1}` }));
	}

	// open returns the formats of what is held.
	open() { return [...this.#held].map(({ format }) => format); }

	asked(check = () => true) { return this.requests.filter(check); }

	// read returns what a client that is at a position is to be told.
	read(fields, position) {
		return this.messages.slice(position).filter(({ field }) => fields.has(field));
	}

	latest(fields) {
		const last = new Map();
		for (const message of this.messages) if (fields.has(message.field)) last.set(message.field, message);
		return [...last.values()].sort((a, b) => this.messages.indexOf(a) - this.messages.indexOf(b));
	}

	cursor() { return `${this.epoch}.${this.messages.length}`; }

	// begin returns what a request is told at first, and its position.
	begin(fields, after) {
		const begun = { position: this.messages.length, missed: false, messages: [] };
		const [epoch, position] = (after || '').split('.');
		if (!after || after !== 'now' && epoch !== this.epoch) {
			begun.messages = this.latest(fields);
			begun.missed = !!after;
		} else if (after !== 'now') {
			begun.missed = position < this.kept;
			begun.messages = this.read(fields, Math.max(position, this.kept));
		}
		return begun;
	}

	async #serve(request, response) {
		const url = new URL(request.url, 'http://localhost');
		let body = '';
		for await (const piece of request) body += piece;
		const query = url.searchParams;
		const format = query.get('format');
		this.requests.push({ method: request.method, format, query, body, at: Date.now(), headers: request.headers });
		const fields = new Set(query.getAll('field'));
		const refuse = (status, reason) => response.writeHead(status, { 'Retry-After': this.retryAfter ?? 0 }).end(reason + '\n');
		if (request.method === 'POST') {
			const held = [...this.#held].find(({ session }) => session === query.get('session'));
			if (!held) return refuse(404, 'no such session');
			for (const field of JSON.parse(body).unwatch || []) held.fields.delete(field);
			return response.end();
		}
		for (const field of this.forbidden) {
			if (fields.has(field)) return refuse(403, `may not watch ${field}`);
		}
		const status = this.statuses[format];
		if (status && (format !== 'json' || query.get('wait') !== '0')) return refuse(status, 'refused');
		if (format === 'json') this.#poll(query, fields, request, response);
		else this.#stream(format, query, fields, request, response);
	}

	#hold(held, request, response, limit) {
		this.#held.add(held);
		held.end = () => {
			clearTimeout(timer);
			clearTimeout(cut);
			clearInterval(beat);
			this.#held.delete(held);
		};
		response.on('close', held.end);
		const timer = limit < Infinity && setTimeout(() => held.timeout(), limit);
		const cut = this.cutAfter && setTimeout(() => { held.end(); request.socket.destroy(); }, this.cutAfter);
		const beat = this.heartbeat && held.beat && setInterval(() => held.beat(), this.heartbeat);
	}

	#poll(query, fields, request, response) {
		const wait = query.has('wait') ? Number(query.get('wait')) : 100;
		const begun = this.begin(fields, query.get('after'));
		const answer = (messages, missed) => {
			const text = JSON.stringify({ cursor: this.cursor(), messages, retry: this.retry, ...missed && { missed: true, missed_fields: [...fields] } });
			response.writeHead(200, { 'Content-Type': 'application/json' }).end(text);
		};
		if (begun.messages.length || begun.missed || wait === 0 || this.instant) return answer(begun.messages, begun.missed);
		const held = {
			format: 'poll',
			fields,
			look: () => {
				const messages = this.read(fields, begun.position);
				if (!messages.length) return;
				held.end();
				// A publisher that goes on at once is to be told in one answer.
				setImmediate(() => answer(this.read(fields, begun.position)));
			},
			timeout: () => { held.end(); answer([]); },
			cut: () => {
				held.end();
				response.writeHead(200, { 'Content-Length': 100 });
				response.write('{"cursor":', () => request.socket.destroy());
			},
		};
		this.#hold(held, request, response, wait * this.second);
	}

	#stream(format, query, fields, request, response) {
		const session = Math.random().toString(36).slice(2);
		const begun = this.begin(fields, query.get('after'));
		let { position } = begun;
		const sse = format === 'sse';
		const text = (told, event) => (sse ? (event ? `event: ${event}\n` : '') + (told.cursor ? `id: ${told.cursor}\n` : '') + `data: ${JSON.stringify(told)}\n\n` : JSON.stringify(told) + '\n');
		let kept = this.buffered.includes(format) ? '' : undefined;
		const send = (piece) => { if (kept === undefined) response.write(piece); else kept += piece; };
		response.writeHead(200, { 'Content-Type': sse ? 'text/event-stream' : 'application/x-ndjson' });
		response.flushHeaders();
		send((sse ? `retry: ${this.retry}\n` : '') + text({ session, retry: this.retry, ...this.heartbeat && { heartbeat: this.heartbeat } }, 'comet-session'));
		if (begun.missed) send(text({ missed: true, missed_fields: [...fields], cursor: query.get('after') }, 'comet-missed'));
		for (const message of begun.messages) send(text(message));
		const held = {
			format,
			fields,
			session,
			look: () => {
				for (const message of this.read(fields, position)) send(text(message));
				position = this.messages.length;
			},
			beat: () => send(sse ? 'event: comet-heartbeat\ndata: {}\n\n' : '\n'),
			timeout: () => { held.end(); response.end(); },
			cut: () => {
				held.end();
				const part = text({ field: [...fields][0], data: 'cut', cursor: 'x.1' });
				response.write(part.slice(0, Math.random() * (part.length - 2)), () => request.socket.destroy());
			},
		};
		this.#hold(held, request, response, query.has('wait') ? query.get('wait') * this.second : Infinity);
	}
}
