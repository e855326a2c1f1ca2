import assert from 'node:assert/strict';
import { once } from 'node:events';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { Browser } from './browser.mjs';
import { Server } from './server.mjs';

const second = 50; // in ms: the time of these tests is twenty times as fast

// until waits until something is true.
async function until(check, what = check) {
	for (const begun = Date.now(); !await check(); await sleep(2)) {
		if (Date.now() - begun > 20_000) assert.fail(`never: ${what}`);
	}
}

// connect returns a Comet of a tab, and what it was told.
function connect(t, tab, server, options = {}, fields = ['id']) {
	const comet = new tab.Comet(server.url, { second, ...options });
	t.after(() => comet.close());
	const told = { comet, got: [], states: [], missed: [] };
	for (const state of ['connecting', 'open', 'waiting', 'closed']) comet.addEventListener(state, () => told.states.push(state));
	comet.addEventListener('missed', ({ fields }) => told.missed.push(...fields));
	for (const field of fields) comet.watch(field, (data) => told.got.push(data));
	return told;
}

const numbers = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

const isIn = (...formats) => ({ format }) => formats.includes(format);
const held = ({ format, query }) => format === 'json' && query.get('wait') !== '0';

test('a page is told of the present state, and then of what comes', async (t) => {
	const server = await Server.start(t);
	server.publish('id', 1);
	server.publish('id', 2);
	const told = connect(t, new Browser(t).tab(), server);
	await until(() => told.comet.state === 'open');
	server.publish('id', { t: 'hi' });
	server.publish('other', 'not this');
	server.publish('id', 'AAEC', { encoding: 'base64' });
	await until(() => told.got.length === 3);
	assert.equal(JSON.stringify(told.got), '[2,{"t":"hi"},{"0":0,"1":1,"2":2}]');
});

for (const transport of ['sse', 'stream', 'poll']) {
	test(`${transport}: of a thousand messages none is lost or repeated, however often it is cut`, async (t) => {
		const server = await Server.start(t, { retry: 5 });
		const told = connect(t, new Browser(t).tab(), server, { transport });
		await until(() => told.comet.state === 'open');
		let cuts = 0;
		for (let i = 1; i <= 1000; i++) {
			server.publish('id', i);
			if (Math.random() < .2) await sleep(Math.random() * 3);
			if (i % 60 === 30) {
				await until(() => server.open().length);
				server.cut();
				cuts++;
			}
		}
		await until(() => told.got.length >= 1000);
		await sleep(50);
		assert.deepEqual(told.got, numbers(1, 1000));
		assert.ok(cuts >= 10);
		assert.equal(told.comet.transport, transport);
		assert.deepEqual(told.missed, []);
	});
}

test('SSE is chosen where it works, and serves all fields on one connection', async (t) => {
	const server = await Server.start(t);
	const told = connect(t, new Browser(t).tab(), server, {}, ['a', 'b', 'c']);
	await until(() => told.comet.state === 'open');
	assert.deepEqual(server.open(), ['sse']);
	for (const field of ['a', 'b', 'c']) server.publish(field, field);
	await until(() => told.got.length === 3);
	assert.equal(server.asked(isIn('sse')).length, 1);
	assert.equal(server.asked(isIn('sse'))[0].query.get('wrap'), 'json');
	assert.deepEqual(told.states, ['connecting', 'open']);
});

for (const [what, options, want] of [
	['a proxy that keeps back event streams', { buffered: ['sse'] }, 'stream'],
	['a proxy that keeps back all streams', { buffered: ['sse', 'ndjson'] }, 'poll'],
	['a route that does not offer SSE', { statuses: { sse: 406 } }, 'stream'],
	['a route that offers no stream', { statuses: { sse: 406, ndjson: 406 } }, 'poll'],
]) {
	test(`${what} is met by ${want}, and nothing is lost`, async (t) => {
		const server = await Server.start(t, options);
		const told = connect(t, new Browser(t).tab(), server);
		let i = 0;
		while (told.comet.state !== 'open') {
			server.publish('id', ++i);
			await sleep(7);
		}
		assert.equal(told.comet.transport, want);
		server.publish('id', ++i);
		await until(() => told.got.at(-1) === i);
		assert.deepEqual(told.got, numbers(told.got[0], i));
		assert.ok(told.got[0] < 5, 'it began late');
		assert.ok(!told.states.includes('closed'));
	});
}

test('a page that names headers is served without EventSource', async (t) => {
	const server = await Server.start(t);
	const told = connect(t, new Browser(t).tab(), server, { headers: { Authorization: 'Bearer x' } });
	await until(() => told.comet.state === 'open');
	assert.equal(told.comet.transport, 'stream');
	assert.ok(server.requests.every(({ headers }) => headers.authorization === 'Bearer x'));
});

test('a web socket is used when the page says so', async (t) => {
	const server = await Server.start(t);
	const sockets = [];
	class WebSocket {
		constructor(url) {
			this.url = new URL(url);
			sockets.push(this);
			setImmediate(() => this.onopen());
		}
		close() {}
	}
	const told = connect(t, new Browser(t).tab({ WebSocket }), server, { transport: 'ws' });
	await until(() => told.comet.state === 'open');
	assert.equal(sockets[0].url.protocol, 'ws:');
	assert.deepEqual(sockets[0].url.searchParams.getAll('field'), ['id']);
	server.publish('id', 1);
	server.publish('id', 2);
	sockets[0].onmessage({ data: JSON.stringify({ cursor: server.cursor(), messages: server.messages }) });
	sockets[0].onclose({});
	await until(() => sockets.length === 2);
	assert.equal(sockets[1].url.searchParams.get('after'), 'e.2');
	assert.deepEqual(told.got, [1, 2]);
});

test('what is not allowed closes it, and says why', async (t) => {
	const server = await Server.start(t, { forbidden: ['secret'] });
	const told = connect(t, new Browser(t).tab(), server, {}, ['secret']);
	const [closed] = await once(told.comet, 'closed');
	assert.equal(closed.status, 403);
	assert.equal(closed.reason, 'may not watch secret');
	assert.equal(server.requests.length, 1);
});

test('a server that is too busy is left alone for as long as it says', async (t) => {
	const server = await Server.start(t, { statuses: { sse: 503, ndjson: 503 }, retryAfter: 1 });
	const told = connect(t, new Browser(t).tab(), server);
	await until(() => told.states.includes('waiting'));
	const before = Date.now();
	server.statuses = {};
	await until(() => told.comet.state === 'open');
	assert.ok(Date.now() - before > 950);
	assert.equal(told.comet.transport, 'sse');
});

test('it comes back later and later, and never sooner than the server says', async (t) => {
	const server = await Server.start(t, { retry: 50, statuses: { sse: 503 } });
	connect(t, new Browser(t).tab(), server, { transport: 'stream' });
	server.statuses = { ndjson: 503 };
	await until(() => server.asked(isIn('ndjson')).length === 5);
	const at = server.asked(isIn('ndjson')).map(({ at }) => at);
	const pauses = at.slice(1).map((time, i) => time - at[i]);
	pauses.forEach((pause, i) => assert.ok(pause >= 50 * 2 ** i - 2, `${pauses}`));
});

test('what holds nobody is not polled in a loop', async (t) => {
	const server = await Server.start(t, { instant: true, retry: 50 });
	connect(t, new Browser(t).tab(), server, { transport: 'poll' });
	await sleep(500);
	assert.ok(server.asked(held).length < 12, `${server.asked(held).length} polls`);
});

test('after a poll was cut it asks for shorter holds, until the network is another one', async (t) => {
	const server = await Server.start(t, { cutAfter: 20 * second });
	const tab = new Browser(t).tab();
	const told = connect(t, tab, server, { transport: 'poll' });
	await until(() => server.asked(held).length >= 4);
	const waits = server.asked(held).map(({ query }) => query.get('wait'));
	assert.equal(waits[0], null);
	assert.ok(waits.slice(1).every((wait) => wait >= 14 && wait < 20), `${waits}`);
	assert.ok(waits.length < 6 && told.states.filter((state) => state === 'waiting').length === 1, 'it was cut again');
	tab.dispatchEvent(new Event('online'));
	await until(() => server.asked(held).at(-1).query.get('wait') === null);
});

test('a stream that is cut twice after the same time is asked to be shorter', async (t) => {
	const server = await Server.start(t, { cutAfter: 20 * second });
	const told = connect(t, new Browser(t).tab(), server);
	await until(() => server.asked(isIn('sse')).length >= 5);
	const waits = server.asked(isIn('sse')).map(({ query }) => query.get('wait'));
	assert.deepEqual(waits.slice(0, 2), [null, null]);
	const wished = waits.filter((wait) => wait !== null);
	assert.ok(wished.length && wished.every((wait) => wait >= 14 && wait < 20), `${waits}`);
	assert.equal(told.states.filter((state) => state === 'waiting').length, waits.length - wished.length);
});

test('a stream that is silent for longer than its heartbeat allows is begun anew', async (t) => {
	const server = await Server.start(t, { heartbeat: 50 });
	const told = connect(t, new Browser(t).tab(), server);
	await until(() => told.comet.state === 'open');
	await sleep(600);
	assert.equal(server.asked(isIn('sse')).length, 1, 'a heartbeat is enough');
	server.stall();
	await until(() => server.asked(isIn('sse')).length === 2);
});

test('a gap is told, with the fields', async (t) => {
	const server = await Server.start(t);
	const told = connect(t, new Browser(t).tab(), server, {}, ['a', 'b']);
	await until(() => told.comet.state === 'open');
	server.publish('a', 1);
	await until(() => told.got.length === 1);
	server.restart();
	server.publish('b', 2);
	server.cut();
	await until(() => told.missed.length);
	assert.deepEqual(told.missed.slice(0, 2), ['a', 'b']);
	await until(() => told.got.at(-1) === 2);
});

test('a field that is watched later begins with its state, and loses and repeats nothing', async (t) => {
	const server = await Server.start(t);
	const { comet } = connect(t, new Browser(t).tab(), server);
	const got = {};
	let i = 0, stop = false;
	const fields = numbers(0, 9).map((n) => `f${n}`);
	const publishing = (async () => {
		while (!stop) {
			i++;
			for (const field of fields) server.publish(field, i);
			await sleep(Math.random() * 2);
		}
	})();
	await until(() => comet.state === 'open');
	for (const field of fields) {
		await sleep(Math.random() * 20);
		got[field] = [];
		comet.watch(field, (data) => got[field].push(data));
	}
	await sleep(200);
	stop = true;
	await publishing;
	for (const field of fields) {
		await until(() => got[field].at(-1) === i);
		assert.deepEqual(got[field], numbers(got[field][0], i), field);
	}
});

test('a second callback of a field is given the latest message at once, and no other request is made', async (t) => {
	const server = await Server.start(t);
	const told = connect(t, new Browser(t).tab(), server);
	await until(() => told.comet.state === 'open');
	server.publish('id', 1);
	await until(() => told.got.length);
	const { length } = server.requests;
	const got = [];
	const stop = told.comet.watch('id', (data, message) => got.push([data, message.cursor]));
	await until(() => got.length);
	stop();
	server.publish('id', 2);
	await until(() => told.got.length === 2);
	assert.deepEqual(got, [[1, 'e.1']]);
	assert.equal(server.requests.length, length);
});

test('what nobody watches any more is taken off the stream', async (t) => {
	const server = await Server.start(t);
	const told = connect(t, new Browser(t).tab(), server);
	const stop = told.comet.watch('other', (data) => told.got.push(data));
	await until(() => told.comet.state === 'open');
	stop();
	await until(() => server.asked(({ method }) => method === 'POST').length);
	assert.deepEqual(JSON.parse(server.requests.at(-1).body), { unwatch: ['other'] });
	server.publish('other', 1);
	server.publish('id', 2);
	await until(() => told.got.length);
	assert.deepEqual(told.got, [2]);
});

test('a callback that throws stops nothing', async (t) => {
	const server = await Server.start(t);
	const thrown = [];
	const tab = new Browser(t).tab({ setTimeout: (callback, ms) => (ms === undefined ? thrown.push(callback) : setTimeout(callback, ms)) });
	const told = connect(t, tab, server, {}, []);
	told.comet.watch('id', () => { throw new Error('of the page'); });
	told.comet.watch('id', (data) => told.got.push(data));
	await until(() => told.comet.state === 'open');
	server.publish('id', 1);
	server.publish('id', 2);
	await until(() => told.got.length === 2);
	assert.throws(thrown[0], /of the page/);
});

test('it ends by close, and by a signal', async (t) => {
	const server = await Server.start(t);
	const browser = new Browser(t);
	const told = connect(t, browser.tab(), server);
	await until(() => told.comet.state === 'open');
	told.comet.close();
	assert.equal(told.comet.state, 'closed');
	assert.equal(told.states.at(-1), 'closed');
	await until(() => !server.open().length);

	const controller = new AbortController();
	const other = connect(t, browser.tab(), server, { signal: controller.signal });
	await until(() => other.comet.state === 'open');
	controller.abort();
	assert.equal(other.comet.state, 'closed');
	await until(() => !server.open().length);

	const watcher = new AbortController();
	const third = connect(t, browser.tab(), server, {}, []);
	third.comet.watch('id', () => {}, { signal: watcher.signal });
	await until(() => third.comet.state === 'open');
	watcher.abort();
	await until(() => !server.open().length);
	assert.equal(third.comet.state, 'waiting');
});

test('a page that comes back from the cache goes on from where it was', async (t) => {
	const server = await Server.start(t);
	const tab = new Browser(t).tab();
	const told = connect(t, tab, server);
	await until(() => told.comet.state === 'open');
	server.publish('id', 1);
	await until(() => told.got.length === 1);
	tab.dispatchEvent(new Event('pagehide'));
	await until(() => !server.open().length);
	for (let i = 2; i <= 9; i++) server.publish('id', i);
	tab.dispatchEvent(Object.assign(new Event('pageshow'), { persisted: true }));
	await until(() => told.got.length >= 9);
	assert.deepEqual(told.got, numbers(1, 9));
});

test('after a sleep it connects anew', async (t) => {
	const server = await Server.start(t);
	const tab = new Browser(t).tab();
	const told = connect(t, tab, server);
	await until(() => told.comet.state === 'open');
	await sleep(12 * second);
	tab.freeze();
	await sleep(100 * second);
	server.publish('id', 1);
	tab.thaw();
	await until(() => server.asked(isIn('sse')).length === 2);
	await until(() => told.got.length === 1);
	await sleep(50);
	assert.deepEqual(told.got, [1]);
});

test('the tabs of a browser have one connection, and each its fields', async (t) => {
	const server = await Server.start(t);
	server.publish('id', 1);
	const browser = new Browser(t);
	const first = connect(t, browser.tab(), server);
	await until(() => first.got.length === 1);
	const tabs = numbers(2, 9).map(() => connect(t, browser.tab(), server));
	const other = connect(t, browser.tab(), server, {}, ['id', 'other']);
	await until(() => tabs.every(({ got }) => got.length === 1) && other.comet.state === 'open');
	await until(() => server.open().length === 1 && server.asked(isIn('sse')).at(-1).query.getAll('field').includes('other'));
	await until(() => first.comet.state === 'open');
	server.publish('other', 'x');
	for (let i = 2; i <= 20; i++) server.publish('id', i);
	for (const { got, comet } of [first, ...tabs]) {
		await until(() => got.length >= 20);
		assert.deepEqual(got, numbers(1, 20));
		assert.equal(comet.state, 'open');
		assert.equal(comet.transport, 'sse');
	}
	await until(() => other.got.length >= 21);
	assert.deepEqual(other.got, [1, 'x', ...numbers(2, 20)]);
	assert.equal(server.open().length, 1);
});

test('when the tab with the connection is gone another takes over within a second, and nothing is lost', async (t) => {
	const server = await Server.start(t, { retry: 5 });
	const browser = new Browser(t);
	let i = 0, stop = false;
	const publishing = (async () => {
		for (; !stop; await sleep(Math.random() * 3)) server.publish('id', ++i);
	})();
	const tabs = [];
	for (let n = 0; n < 6; n++) {
		const tab = browser.tab();
		tabs.push({ tab, ...connect(t, tab, server) });
		await until(() => tabs[n].got.length);
	}
	for (let n = 0; n < 5; n++) {
		const last = tabs[n + 1].got.at(-1);
		const killed = Date.now();
		if (n % 2) tabs[n].tab.kill();
		else tabs[n].comet.close();
		await until(() => tabs[n + 1].got.at(-1) > last + 5);
		assert.ok(Date.now() - killed < 1000);
		await until(() => server.open().length === 1);
	}
	stop = true;
	await publishing;
	const { got } = tabs.at(-1);
	await until(() => got.at(-1) === i);
	assert.deepEqual(got, numbers(got[0], i));
});

test('the fields of a tab that is gone are watched no more', async (t) => {
	const server = await Server.start(t);
	const browser = new Browser(t);
	const first = connect(t, browser.tab(), server);
	await until(() => first.comet.state === 'open');
	const tab = browser.tab();
	const other = connect(t, tab, server, {}, ['other']);
	await until(() => server.asked(isIn('sse')).length === 2 && other.comet.state === 'open');
	await sleep(50);
	tab.kill();
	await until(() => server.asked(({ method }) => method === 'POST').length);
	assert.equal(server.requests.at(-1).body, '{"unwatch":["other"]}');
});

test('a tab that was frozen catches up', async (t) => {
	const server = await Server.start(t);
	const browser = new Browser(t);
	const first = connect(t, browser.tab(), server);
	await until(() => first.comet.state === 'open');
	const tab = browser.tab();
	const other = connect(t, tab, server);
	await until(() => other.comet.state === 'open');
	server.publish('id', 1);
	await until(() => other.got.length === 1);
	tab.freeze();
	for (let i = 2; i <= 20; i++) server.publish('id', i);
	await until(() => first.got.length === 20);
	tab.forget(); // what it was handed meanwhile is lost
	tab.thaw();
	for (let i = 21; i <= 25; i++) server.publish('id', i);
	await until(() => other.got.length >= 25);
	await sleep(50);
	assert.deepEqual(other.got, numbers(1, 25));
	server.publish('id', 26);
	await until(() => other.got.length === 26);
	assert.equal(server.asked(({ query }) => query.get('after') === 'e.1').length, 1, 'it caught up once');
});

test('a tab that leads and is frozen loses the lead to one that is seen', async (t) => {
	const server = await Server.start(t);
	const browser = new Browser(t);
	const tab = browser.tab();
	const first = connect(t, tab, server);
	await until(() => first.comet.state === 'open');
	const other = connect(t, browser.tab(), server);
	await until(() => other.comet.state === 'open');
	server.publish('id', 1);
	await until(() => first.got.length === 1 && other.got.length === 1);
	tab.freeze();
	server.publish('id', 2);
	await until(() => other.got.length === 2);
	server.publish('id', 3);
	await until(() => other.got.length === 3);
	tab.thaw();
	await until(() => first.got.length >= 3);
	server.publish('id', 4);
	await until(() => first.got.length >= 4 && other.got.length >= 4);
	await until(() => server.open().length === 1);
	assert.deepEqual(first.got, [1, 2, 3, 4]);
	assert.deepEqual(other.got, [1, 2, 3, 4]);
});

test('a tab that was frozen and takes over hands on nothing that is past to the others', async (t) => {
	const server = await Server.start(t);
	const browser = new Browser(t);
	const tab = browser.tab();
	const first = connect(t, tab, server);
	await until(() => first.comet.state === 'open');
	const sleeper = browser.tab();
	const second = connect(t, sleeper, server);
	await until(() => second.comet.state === 'open');
	server.publish('id', 1);
	await until(() => second.got.length === 1);
	sleeper.freeze();
	for (let i = 2; i <= 5; i++) server.publish('id', i);
	await until(() => first.got.length === 5);
	const third = connect(t, browser.tab(), server);
	await until(() => third.got.length === 1);
	sleeper.forget();
	tab.kill();
	server.publish('id', 6);
	sleeper.thaw();
	await until(() => second.got.length >= 6 && third.got.length >= 2);
	server.publish('id', 7);
	await until(() => second.got.includes(7) && third.got.includes(7));
	await sleep(50);
	assert.deepEqual(second.got, numbers(1, 7));
	assert.deepEqual(third.got, [5, 6, 7]);
});

test('a tab that was frozen and does not know that it leads no more is not believed', async (t) => {
	const server = await Server.start(t);
	const browser = new Browser(t);
	const sleeper = browser.tab();
	const first = connect(t, sleeper, server);
	await until(() => first.comet.state === 'open');
	const second = connect(t, browser.tab(), server);
	await until(() => second.comet.state === 'open');
	sleeper.freeze();
	server.publish('id', 1);
	server.publish('id', 2);
	await until(() => second.got.length === 2); // by its own connection
	const third = connect(t, browser.tab(), server);
	await until(() => third.got.length === 1);
	sleeper.thaw();
	await until(() => first.got.length >= 2);
	server.publish('id', 3);
	for (const { got } of [first, second, third]) await until(() => got.includes(3));
	await sleep(50);
	assert.deepEqual(first.got, [1, 2, 3]);
	assert.deepEqual(second.got, [1, 2, 3]);
	assert.deepEqual(third.got, [2, 3]);
});

test('a tab that watches what it may not takes nothing from the others', async (t) => {
	const server = await Server.start(t, { forbidden: ['secret'] });
	const browser = new Browser(t);
	const tabs = [connect(t, browser.tab(), server), connect(t, browser.tab(), server)];
	await until(() => tabs.every(({ comet }) => comet.state === 'open'));
	const bad = connect(t, browser.tab(), server, {}, ['secret']);
	await until(() => bad.comet.state === 'closed');
	server.publish('id', 1);
	for (const { got } of tabs) await until(() => got.length === 1);
});

test('without locks and channels each tab has a connection', async (t) => {
	const server = await Server.start(t);
	const browser = new Browser(t, { shares: false });
	const tabs = [connect(t, browser.tab(), server), connect(t, browser.tab(), server)];
	await until(() => server.open().length === 2);
	server.publish('id', 1);
	for (const { got } of tabs) await until(() => got.length === 1);
});

test('the module exports what the classic script defines', async () => {
	const module = await import(process.env.COMET_MODULE || '../comet.js');
	assert.equal(module.Comet.name, 'Comet');
	assert.equal(module.default, module.Comet);
	assert.equal(globalThis.Comet, undefined);
});
