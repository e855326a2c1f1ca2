<?php

use dokuwiki\HTTP\HTTPClient;
use dokuwiki\Logger;

/**
 * Tells whoever looks at a page that it was changed. Settings, in conf/local.php:
 *
 *     $conf['plugin']['comet']['door'] = 'http://127.0.0.1:2080/config';   // where to publish
 *     $conf['plugin']['comet']['push'] = '/push';                          // where browsers wait
 */
class action_plugin_comet extends DokuWiki_Action_Plugin
{
    public function register(Doku_Event_Handler $controller)
    {
        $controller->register_hook('COMMON_WIKIPAGE_SAVE', 'AFTER', $this, 'publish');
        $controller->register_hook('TPL_METAHEADER_OUTPUT', 'BEFORE', $this, 'follow');
    }

    /** The page is stored: tell the browsers. A save never fails because of that, and waits for a second at most. */
    public function publish(Doku_Event $event)
    {
        $message = [
            'id' => $event->data['id'],
            'revision' => (int) $event->data['newRevision'],
            'summary' => (string) $event->data['summary'],
        ];
        $door = $this->getConf('door', 'http://127.0.0.1:2080/config');
        $http = new HTTPClient(); // of DokuWiki's two the one that knows no proxy
        $http->timeout = 1;
        $http->headers['Content-Type'] = 'application/json';
        $told = $http->post($door . '?field=' . rawurlencode($this->field($message['id'])), json_encode($message));
        if ($told !== "OK\n") {
            Logger::error("comet: $message[id] is saved, but not published", "$door: $http->status $http->error");
        }
    }

    /** A page that is looked at, in its present state, follows what becomes of it. */
    public function follow(Doku_Event $event)
    {
        global $ACT, $ID, $INFO, $REV;
        if ($ACT !== 'show' || $REV) {
            return;
        }
        $page = json_encode([
            'push' => $this->getConf('push', '/push'),
            'field' => $this->field($ID),
            'revision' => (int) ($INFO['exists'] ? $INFO['currentrev'] : $_SERVER['REQUEST_TIME']),
        ], JSON_HEX_TAG);
        $event->data['style'][] = ['_data' => self::STYLE];
        $event->data['script'][] = ['type' => 'module', '_data' => "const page = $page;\n" . self::SCRIPT];
    }

    /**
     * The field of a page. Nobody who waits is asked who he is; so the field of a page that is not for everybody has
     * a name that only its readers are told, in the page.
     */
    private function field($id)
    {
        if (auth_aclcheck($id, '', []) >= AUTH_READ) {
            return "page/$id";
        }
        return "page/$id~" . substr(hash_hmac('sha256', "comet $id", auth_cookiesalt(false, true)), 0, 32);
    }

    private const SCRIPT = <<<'JS'
// There from the start, empty: what is put into it is then read out.
const status = document.createElement('div');
status.id = 'comet__status';
status.setAttribute('role', 'status');
document.body.append(status);

function show({ summary }) {
	const bar = document.createElement('div');
	const text = document.createElement('p');
	text.textContent = summary ? `This page was changed: “${summary}”` : 'This page was changed.';
	bar.append(text, button('Reload', () => location.reload()), button('Not now', () => bar.remove()));
	status.replaceChildren(bar);
}

function button(text, onclick) {
	const element = document.createElement('button');
	element.type = 'button';
	return Object.assign(element, { textContent: text, onclick });
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
		// Without a cursor, and after a gap, this is the last change, at once: an old one mostly, which the page has.
		// A revision is a second. What comes later is news, even if it is of the same second.
		const since = cursor && !answer.missed ? page.revision : page.revision + 1;
		const changes = answer.messages.filter(({ data }) => data.revision >= since);
		if (changes.length) show(changes.at(-1).data);
		({ cursor, retry } = answer);
		failures = 0;
	} catch {
		// Without Comet in front of the wiki this is a request to the wiki: ask seldom.
		if (!document.hidden) await new Promise((resume) => setTimeout(resume, Math.min(retry * 2 ** failures++, 60_000)));
	} finally {
		clearTimeout(late);
	}
}
JS;

    private const STYLE = <<<'CSS'
#comet__status {
	position: fixed;
	inset: auto 0 0;
	z-index: 1000;
}
#comet__status > div {
	display: flex;
	flex-wrap: wrap;
	gap: .5rem;
	align-items: center;
	justify-content: center;
	padding: .5rem 1rem calc(.5rem + env(safe-area-inset-bottom));
	background: #1f2933;
	color: #fff;
	box-shadow: 0 -1px 6px rgb(0 0 0 / .4);
	font-size: 1rem;
}
#comet__status p {
	margin: 0;
	max-width: 60ch;
	overflow-wrap: anywhere;
}
#comet__status button {
	min-height: 44px;
	margin: 0;
	padding: 0 1.25rem;
	border: 1px solid #fff;
	border-radius: 4px;
	background: none;
	color: inherit;
	font: inherit;
	cursor: pointer;
}
#comet__status button:first-of-type {
	background: #fff;
	color: #1f2933;
	font-weight: bold;
}
#comet__status button:focus-visible {
	outline: 3px solid #ffbf47;
	outline-offset: 2px;
}
@media print {
	#comet__status { display: none; }
}
CSS;
}
