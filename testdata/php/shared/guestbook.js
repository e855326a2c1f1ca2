// What the page does in all versions: show new messages, send the form.

const list = document.querySelector('#messages');
const template = document.querySelector('#message');
const status = document.querySelector('#status');
const problem = document.querySelector('#problem');
const form = document.querySelector('form');
const button = form.querySelector('button');

let last = Number(list.dataset.last);

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// get gives up in the end: a laptop that slept must not wait on a connection that is long gone.
export async function get(url) {
	const response = await fetch(url, { cache: 'no-store', signal: AbortSignal.timeout(120_000) });
	if (!response.ok) throw new Error(`${url}: ${response.status}`);
	return response;
}

// load shows what came after the last message shown, and returns how many that were.
async function load() {
	const messages = await (await get(`list.php?since=${last}`)).json();
	for (const message of messages) {
		show(message);
		last = message.id;
	}
	return messages.length;
}

function show({ name, time, text }) {
	const item = template.content.firstElementChild.cloneNode(true);
	item.querySelector('b').textContent = name;
	item.querySelector('time').dateTime = time;
	item.querySelector('.text').textContent = text;
	item.classList.add('new');
	showTime(item.querySelector('time'));
	list.prepend(item);
}

// showTime writes a time as it is where the reader is.
function showTime(element) {
	element.textContent = new Date(element.dateTime)
		.toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' });
}

// follow loads the new messages each time that wait(id of the last one) is over, for ever.
export async function follow(wait) {
	for (;;) {
		const began = performance.now();
		try {
			await wait(last);
			const news = await load();
			status.textContent = '';
			// Nothing, and that at once: the two sides disagree (a database
			// begun anew, say). That must not become a busy loop.
			if (!news && performance.now() - began < 500) await sleep(1000);
		} catch {
			status.textContent = 'No connection. Trying again …';
			await sleep(2000 + 2000 * Math.random());
		}
	}
}

form.addEventListener('submit', async (event) => {
	event.preventDefault();
	button.disabled = true;
	problem.textContent = '';
	try {
		const response = await fetch(form.action, {
			method: 'POST',
			headers: { Accept: 'application/json' },
			body: new URLSearchParams(new FormData(form)),
			signal: AbortSignal.timeout(30_000),
		});
		if (response.status === 422) {
			problem.textContent = (await response.json()).error;
			return;
		}
		if (!response.ok) throw new Error(`post.php: ${response.status}`);
		form.elements.text.value = '';
		form.elements.text.focus();
	} catch {
		problem.textContent = 'The message could not be sent. Please try again.';
	} finally {
		button.disabled = false;
	}
});

list.querySelectorAll('time').forEach(showTime);
