// The WebSocket to the server: binary frames in, JSON messages out, and reconnecting after a loss.
// Messages and frames are described in magrathea/server/protocol.py.

const decoder = new TextDecoder();

export function decodeFrame(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(decoder.decode(new Uint8Array(buffer, 4, length)));
  const parts = {};
  let offset = 4 + length;
  for (const part of header.parts) {
    parts[part.name] = { shape: part.shape, data: new Uint8Array(buffer, offset, part.size) };
    offset += part.size;
  }
  return { ...header, parts };
}

export class Connection {
  // listener has: world(message), session(message), frame(frame), error(reason), connection(state, text)
  constructor(worldId, listener) {
    this.worldId = worldId;
    this.listener = listener;
    this.session = new URL(location.href).searchParams.get("session");
    this.start = new URL(location.href).searchParams.get("start"); // of a new session
    this.attempts = 0;
    this.refused = null; // why the server refused this page
  }

  open() {
    const url = new URL(`/api/worlds/${encodeURIComponent(this.worldId)}/play`, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    if (this.session) url.searchParams.set("session", this.session);
    else if (this.start) url.searchParams.set("start", this.start);
    this.listener.connection("connecting", this.attempts ? "Reconnecting…" : "Connecting…");
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = (event) => this.receive(event.data);
    this.socket.onclose = () => this.lost();
  }

  receive(data) {
    if (data instanceof ArrayBuffer) {
      this.listener.frame(decodeFrame(data));
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "world") {
      this.session = message.session;
      this.attempts = 0;
      this.refused = null;
      this.listener.connection("connected", "Connected");
      this.listener.world(message);
    } else if (message.type === "session") {
      this.listener.session(message);
    } else if (message.type === "error") {
      if (message.fatal) this.refused = message.reason;
      else this.listener.error(message.reason);
    }
  }

  lost() {
    this.attempts += 1;
    const wait = this.refused ? 4000 : Math.min(5000, 250 * 2 ** this.attempts);
    this.listener.connection("lost", this.refused ? "Not connected" : "Connection lost. Reconnecting…");
    setTimeout(() => this.open(), wait);
  }

  get isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  send(message) {
    if (this.isOpen) this.socket.send(JSON.stringify(message));
  }
}
