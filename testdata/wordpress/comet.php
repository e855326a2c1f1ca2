<?php
/*
 * Plugin Name: Comet
 * Description: A new comment appears on the pages that are open.
 *
 * Settings, in wp-config.php:
 *
 *     define('COMET_DOOR', 'http://127.0.0.1:2080/config');   // where to publish
 *     define('COMET_PUSH', '/push');                          // where browsers wait
 */

namespace Comet;

defined('ABSPATH') || exit;

// Stored: by the form, the REST API, XML-RPC or a command.
add_action('wp_insert_comment', function ($id, $comment) {
    if ($comment->comment_approved === '1') {
        publish($comment);
    }
}, 10, 2);

// Held for moderation, and now approved.
add_action('transition_comment_status', function ($new, $old, $comment) {
    if ($new === 'approved') {
        publish($comment);
    }
}, 10, 3);

/** Tells the browsers the number of a comment, which they fetch as whoever they are. A comment never fails because of that. */
function publish($comment)
{
    $door = defined('COMET_DOOR') ? COMET_DOOR : 'http://127.0.0.1:2080/config';
    $told = wp_remote_post("$door?field=post/$comment->comment_post_ID", [
        'timeout' => 1,
        'headers' => ['Content-Type' => 'application/json'],
        'body' => wp_json_encode(['comment' => (int) $comment->comment_ID]),
    ]);
    if (wp_remote_retrieve_body($told) !== "OK\n") {
        $why = is_wp_error($told) ? $told->get_error_message() : wp_remote_retrieve_response_code($told);
        error_log("comet: comment $comment->comment_ID is stored, but not published: $door: $why");
    }
}

add_action('wp_enqueue_scripts', function () {
    $post = get_queried_object_id();
    if (!is_singular() || !(comments_open($post) || get_comments_number($post))) {
        return;
    }
    $page = wp_json_encode([
        'push' => defined('COMET_PUSH') ? COMET_PUSH : '/push',
        'field' => "post/$post",
        'time' => (int) ($_SERVER['REQUEST_TIME_FLOAT'] * 1000), // before its comments are looked up
    ], JSON_HEX_TAG);
    wp_register_script('comet', false, [], null, true);
    wp_enqueue_script('comet');
    wp_add_inline_script('comet', "(async (page) => {\n" . SCRIPT . "\n})($page);");
});

const SCRIPT = <<<'JS'
// update fetches the page that is shown, and takes over the comments that are new in it. So they look as the theme
// has them, and the rest, a comment half written, stays. Scripts of a parsed page do not run.
async function update() {
	const response = await fetch(location.href, { cache: 'no-store' });
	if (!response.ok) throw new Error(response.status);
	const fresh = new DOMParser().parseFromString(await response.text(), 'text/html');
	for (const comment of fresh.querySelectorAll('[id^="comment-"]')) {
		if (/^comment-\d+$/.test(comment.id) && !here(comment)) place(comment);
	}
	const title = '.comments-title, .wp-block-comments-title';
	const titles = [document.querySelector(title), fresh.querySelector(title)];
	if (titles[0] && titles[1]) titles[0].textContent = titles[1].textContent;
}

// here finds what stands for an element of the fetched page in the one that is shown.
function here(element) {
	return element?.id ? document.getElementById(element.id) : null;
}

// place puts a comment beside the one that it stands beside, or, as the first of its list, the list where it belongs.
function place(comment) {
	for (let e = comment.previousElementSibling; e; e = e.previousElementSibling) {
		if (here(e)) return here(e).after(comment);
	}
	for (let e = comment.nextElementSibling; e; e = e.nextElementSibling) {
		if (here(e)) return here(e).before(comment);
	}
	const list = comment.parentElement;
	const parent = here(list.closest('[id^="comment-"]'));
	if (parent) parent.append(list);
	else document.getElementById('respond')?.before(list);
}

// Only a page that somebody sees waits: over HTTP/1.1 a browser has six connections to a site.
let stop;
document.addEventListener('visibilitychange', () => { if (document.hidden) stop?.abort(); });

async function seen() {
	while (document.hidden) {
		await new Promise((resume) => document.addEventListener('visibilitychange', resume, { once: true }));
	}
}

let cursor = '', retry = 2000, failures = 0;
for (;;) {
	await seen();
	stop = new AbortController();
	const late = setTimeout(() => stop.abort(), 150_000);
	try {
		const query = new URLSearchParams({ format: 'json', field: page.field, after: cursor });
		const response = await fetch(`${page.push}?${query}`, { cache: 'no-store', signal: stop.signal });
		if (!response.ok) throw new Error(response.status);
		const answer = await response.json();
		// Without a cursor this is the last comment, at once: an old one mostly, which the page has or has on another sheet.
		const news = answer.messages.filter((m) => cursor || Date.parse(m.time) >= page.time);
		if (answer.missed || news.some((m) => !document.getElementById(`comment-${m.data.comment}`))) await update();
		({ cursor, retry } = answer);
		failures = 0;
	} catch {
		// Without Comet in front of WordPress this is a request to WordPress: ask seldom.
		if (!document.hidden) await new Promise((resume) => setTimeout(resume, Math.min(retry * 2 ** failures++, 60_000)));
	} finally {
		clearTimeout(late);
	}
}
JS;
