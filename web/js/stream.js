// Live events: one EventSource that resumes where it stopped, and says what state it is in.

const SILENCE_MS = 25_000; // The server sends a status every 10 s.
const EVENTS = ["event", "counts", "occupancy", "status", "configuration", "lost"];

export class Live {
  /**
   * `handlers` has a function per message name, and `state(name)` with connecting, live or reconnecting. Events behind
   * `lastId` are sent: the page asks for it before it asks for anything else, so that nothing falls between.
   */
  constructor(handlers, lastId) {
    this.handlers = handlers;
    this.lastId = lastId;
    this.retryMs = 500;
    this.open();
    setInterval(() => { if (Date.now() - this.heardAt > SILENCE_MS) this.restart(); }, 5000);
  }

  open() {
    this.heardAt = Date.now();
    const resume = this.lastId ? `?last_id=${encodeURIComponent(this.lastId)}` : "";
    const source = (this.source = new EventSource(`/api/v1/stream${resume}`));
    source.onopen = () => { this.retryMs = 500; this.handlers.state("live"); };
    source.onerror = () => {
      this.handlers.state("reconnecting");
      // The browser tries again by itself, except after an answer that was an error.
      if (source.readyState === EventSource.CLOSED && this.source === source) {
        setTimeout(() => { if (this.source === source) this.open(); }, this.retryMs);
        this.retryMs = Math.min(10_000, this.retryMs * 2);
      }
    };
    for (const name of EVENTS) {
      source.addEventListener(name, (message) => {
        this.heardAt = Date.now();
        if (message.lastEventId) this.lastId = message.lastEventId;
        this.handlers[name]?.(JSON.parse(message.data));
      });
    }
  }

  /** Begin a new connection, behind `lastId` or where the old one stopped. */
  restart(lastId = this.lastId) {
    this.source.close();
    this.lastId = lastId;
    this.handlers.state("reconnecting");
    this.open();
  }
}
