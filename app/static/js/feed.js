// The line to the market: one WebSocket at the page's own origin, kept up as long as the page lives.
//
// It hands on every message and says what the line is worth:
//   connecting    no state of the market has come yet
//   live          messages come as they should; a quiet market sends a heartbeat every second
//   lagging       the last message should have been followed by another more than a second ago
//   reconnecting  the socket is gone; it is tried again with growing, jittered waits
//   stale         what the page shows is older than STALE_MS, or the matching server is away, if
//                 only for orders: none may go out on the strength of it
//   ended         the session is over: only a new log-in helps

const HEARTBEAT_MS = 1_000;
const LAGGING_MS = HEARTBEAT_MS + 1_000;
const STALE_MS = 5_000;
const SILENT_MS = 10_000;
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 8_000;
const LOOK_EVERY_MS = 500;
const LOGGED_OUT = 4001;

export class Feed {
  #url;
  #depth;
  #onMessage;
  #onState;
  #socket = null;
  #attempts = 0;
  #timer = 0;
  #heardAt = performance.now();
  #upstreamAway = false;
  #hasSnapshot = false; // of this connection
  #state = "connecting";

  /** `depth`: levels of each side to ask for. `onMessage(message)` gets each decoded frame,
   *  `onState(state)` each change of the line. */
  constructor({ url, depth, onMessage, onState }) {
    this.#url = url;
    this.#depth = depth;
    this.#onMessage = onMessage;
    this.#onState = onState;
  }

  get state() {
    return this.#state;
  }

  start() {
    this.#heardAt = performance.now();
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.#hurry();
    });
    setInterval(() => this.#look(), LOOK_EVERY_MS);
    this.#connect();
  }

  /** Asks for a new snapshot: what came on this connection no longer fits together. */
  resubscribe() {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    const channels = ["book", "trades", "orders"];
    this.#socket.send(JSON.stringify({ op: "subscribe", req: 1, channels, depth: this.#depth }));
  }

  /** The session is over: nothing is heard any more. */
  end() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    this.#say("ended");
  }

  #connect() {
    clearTimeout(this.#timer);
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#hasSnapshot = false;
    socket.onopen = () => this.resubscribe();
    socket.onmessage = (event) => {
      if (socket === this.#socket) this.#hear(JSON.parse(event.data));
    };
    socket.onclose = ({ code }) => {
      if (socket !== this.#socket) return;
      if (code === LOGGED_OUT) this.end();
      else this.#retry();
    };
  }

  #hear(message) {
    this.#heardAt = performance.now();
    if (message.type === "upstream") this.#upstreamAway = message.state === "away";
    if (message.type === "snapshot") {
      this.#attempts = 0;
      this.#hasSnapshot = true;
    }
    this.#onMessage(message);
    this.#look();
  }

  #retry() {
    this.#socket = null;
    const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#attempts);
    this.#attempts += 1;
    this.#timer = setTimeout(() => this.#connect(), longest * (0.5 + Math.random() / 2));
    this.#look();
  }

  /** The tab is looked at again, or the network is back: no reason to wait any longer. */
  #hurry() {
    if (this.#state === "ended") return;
    if (this.#socket === null) {
      this.#attempts = 0;
      this.#connect();
    }
    this.#look();
  }

  #look() {
    if (this.#state === "ended") return;
    const silence = performance.now() - this.#heardAt;
    if (silence > SILENT_MS && this.#socket?.readyState === WebSocket.OPEN) {
      const dead = this.#socket;
      this.#retry();
      dead.close();
    }
    if (this.#upstreamAway || silence > STALE_MS) this.#say("stale");
    else if (this.#socket === null) this.#say("reconnecting");
    else if (this.#hasSnapshot && this.#socket.readyState === WebSocket.OPEN) {
      this.#say(silence > LAGGING_MS ? "lagging" : "live");
    }
  }

  #say(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.#onState(state);
  }
}
