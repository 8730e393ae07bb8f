// The address of a WebSocket in; its messages, binary frames and state out. It connects again for as long as the page lives.

const FIRST_MS = 500,
  LONGEST_MS = 2000,
  SILENT_MS = 7000,
  SEEN_MS = 250,
  ASK_MS = 5000;

/** `on` is {open(), message(object), samples(ArrayBuffer), state(connection)}; `state` is connecting, live, lost or login. */
export class Connection {
  constructor(address, on) {
    this.address = address;
    this.on = on;
    this.state = "connecting";
    this.since_ms = Date.now();
    this.received = { frames: 0, bytes: 0, messages: 0 };
    this.tries = 0;
    this.open();
  }

  open() {
    const socket = (this.socket = new WebSocket(this.address));
    socket.binaryType = "arraybuffer";
    this.heard_ms = this.seen_ms = performance.now();
    this.count = this.seen = 0;
    socket.onopen = () => socket === this.socket && this.on.open();
    socket.onmessage = ({ data }) => {
      if (socket === this.socket) this.hear(data);
    };
    socket.onclose = () => this.fall(socket);
  }

  hear(data) {
    this.heard_ms = performance.now();
    if (typeof data === "string") this.hearText(JSON.parse(data), data.length);
    else this.hearSamples(data);
  }

  hearSamples(data) {
    this.count++;
    this.received.frames++;
    this.received.bytes += data.byteLength;
    this.on.samples(data);
    if (this.heard_ms - this.seen_ms >= SEEN_MS) this.tellSeen();
  }

  // So that the monitor knows how far this browser is behind, and skips it forward.
  tellSeen() {
    if (this.seen === this.count || !this.send({ seen: this.count })) return;
    this.seen = this.count;
    this.seen_ms = performance.now();
  }

  hearText(message, length) {
    this.received.messages++;
    this.received.bytes += length;
    this.on.message(message);
    if (message.type !== "hello") return;
    this.tries = 0;
    this.turn("live");
  }

  /** Whether it could be sent. */
  send(message) {
    if (this.state !== "live" || this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  /** Call it now and then: a line that says nothing at all, not even its health, is dead though nobody closed it. */
  check() {
    this.tellSeen();
    if (this.socket && performance.now() - this.heard_ms > SILENT_MS) {
      this.socket.close();
      this.fall(this.socket);
    }
  }

  fall(socket) {
    if (socket !== this.socket) return;
    this.socket = null;
    this.turn("lost");
    const wait_ms = Math.min(FIRST_MS * 2 ** this.tries++, LONGEST_MS) * (0.8 + 0.2 * Math.random());
    setTimeout(() => this.retry(), wait_ms);
  }

  // A browser does not say why a socket was refused: it may be for want of a login.
  async retry() {
    if (await isRefused()) this.turn("login");
    else this.open();
  }

  turn(state) {
    if (state === this.state) return;
    const isNow = state === "live",
      silent_ms = performance.now() - this.heard_ms;
    if (isNow || this.state === "live") this.since_ms = Date.now() - (isNow ? 0 : silent_ms);
    this.state = state;
    this.on.state(this);
  }
}

async function isRefused() {
  try {
    const answer = await fetch("/health.json", { redirect: "manual", cache: "no-store", signal: AbortSignal.timeout(ASK_MS) });
    return answer.status === 401 || answer.type === "opaqueredirect";
  } catch {
    return false;
  }
}
