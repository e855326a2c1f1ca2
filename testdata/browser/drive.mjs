// Drives Chromium for the tests in cmd/comet. It reads commands, a line of JSON each, and answers each with a line when
// it is done, which need not be in their order:
//
//	{"id":1,"page":"ada","call":"fill","args":["#text","hello"]}   {"id":1,"result":...} or {"id":1,"error":"..."}
//
// The calls are the methods of Playwright's Page, and "open", which makes the page in a context of its own, as another
// visitor's, or as a tab beside another page. At the end of its input it closes the browser and exits.
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const browser = await chromium.launch({
	executablePath: process.env.CHROMIUM,
	chromiumSandbox: false, // root, and most containers, cannot have it
	args: ['--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1', '--disable-background-networking'],
});
const pages = new Map();

async function run({ page, call, args = [] }) {
	if (call !== 'open') return pages.get(page)[call](...args);
	const context = args[1] ? pages.get(args[1]).context() : await browser.newContext(args[0]);
	const opened = await context.newPage();
	opened.on('pageerror', (error) => console.error(`${page}: ${error.stack}`));
	opened.on('console', (message) => console.error(`${page}: ${message.type()}: ${message.text()}`));
	pages.set(page, opened);
}

async function answer(line) {
	const command = JSON.parse(line);
	const reply = { id: command.id };
	try {
		reply.result = await run(command);
	} catch (error) {
		reply.error = String(error);
	}
	let text;
	try {
		text = JSON.stringify(reply);
	} catch { // such as what goto returns: of no use to the other side
		text = JSON.stringify({ id: command.id });
	}
	process.stdout.write(`${text}\n`);
}

process.stdout.write('{"id":0}\n');
for await (const line of createInterface({ input: process.stdin })) void answer(line);
await browser.close();
