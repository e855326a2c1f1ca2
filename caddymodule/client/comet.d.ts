/** How messages come: EventSource, a stream read by fetch, long-polls, or a web socket. */
export type Transport = 'sse' | 'stream' | 'poll' | 'ws';

/**
 * - `connecting`: a connection is being made.
 * - `open`: what is published comes at once.
 * - `waiting`: for something to watch, or for the next attempt after a failure.
 * - `closed`: for good, by `close()` or because the server does not allow it.
 */
export type State = 'connecting' | 'open' | 'waiting' | 'closed';

export interface CometOptions {
	/** Default: the first that works of `sse`, `stream` and `poll`. */
	transport?: Transport;
	/** Where to begin: a cursor, `now`, or `first` for all that is kept. Default: with the latest message of each field. */
	after?: string;
	/** Whether the tabs of a browser share one connection. Default: true, and false with `headers`. */
	share?: boolean;
	/** Closes it when it is aborted. */
	signal?: AbortSignal;
	/** Headers for each request. EventSource sends none, so it is not used then. */
	headers?: Record<string, string>;
	/** Whether cookies are sent to another origin. Default: false. */
	withCredentials?: boolean;
	/** After how many seconds without a byte a stream is taken to be kept back by a proxy. Default: 5. */
	patience?: number;
}

/** A message, as docs/http.md of Comet describes it. */
export interface Message<T = unknown> {
	field: string;
	/** What was published; base64, where `encoding` says so. */
	data: T;
	cursor: string;
	/** When it was published, in RFC 3339. */
	time: string;
	event?: string;
	type?: string;
	encoding?: 'base64';
}

/** What was published to some fields can no longer be had: load the state anew. */
export interface MissedEvent extends Event {
	/** Those of the fields that this page watches. */
	readonly fields: string[];
}

export interface ClosedEvent extends Event {
	/** The status that ended it; undefined after `close()`. */
	readonly status?: number;
	/** What the server said of it. */
	readonly reason?: string;
}

export interface CometEventMap {
	connecting: Event;
	open: Event;
	waiting: Event;
	closed: ClosedEvent;
	missed: MissedEvent;
}

export class Comet extends EventTarget {
	/** @param url of a hold route. Default: `/push`. It may have a query. */
	constructor(url?: string | URL, options?: CometOptions);

	readonly state: State;
	/** What is used at present, by this tab or by the one that it shares a connection with. */
	readonly transport: Transport | '';
	/** To go on from, in the option `after`. */
	readonly cursor: string | undefined;

	/**
	 * Calls back with the latest message of a field, if there is one, and with each
	 * that comes: once, and in order. `data` is the data of the message; a Uint8Array
	 * where it is neither JSON nor text.
	 *
	 * @returns how to stop.
	 */
	watch<T = unknown>(
		field: string,
		callback: (data: T, message: Message<T>) => void,
		options?: { signal?: AbortSignal },
	): () => void;

	close(): void;

	addEventListener<K extends keyof CometEventMap>(
		type: K,
		listener: (this: Comet, event: CometEventMap[K]) => void,
		options?: boolean | AddEventListenerOptions,
	): void;
	addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
	removeEventListener<K extends keyof CometEventMap>(
		type: K,
		listener: (this: Comet, event: CometEventMap[K]) => void,
		options?: boolean | EventListenerOptions,
	): void;
	removeEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | EventListenerOptions): void;
}

export default Comet;
