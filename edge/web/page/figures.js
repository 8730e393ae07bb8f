// The page in; figures of it that tests and a bench may read, and nothing that could be changed, out.

/** Times `_s` are seconds of the stream, `_time` seconds since 1970. */
export function figures(page) {
  return Object.freeze({
    get frames() {
      return page.loop.frames;
    },
    get first_ms() {
      return page.loop.first_ms;
    },
    get connection() {
      return page.connection.state;
    },
    get received() {
      return { ...page.connection.received };
    },
    get session() {
      return page.ward.session;
    },
    get view() {
      return page.name;
    },
    get jumps() {
      return [...page.feeds.values()].reduce((sum, { signal }) => sum + signal.jumps, 0);
    },
    get newest() {
      return Object.fromEntries([...page.feeds].map(([name, { signal }]) => [name, signal.time_s]));
    },
    get strips() {
      return [...page.loop.strips].map((strip) => told(strip, page.feeds.get(strip.source)));
    },
  });
}

function told(strip, feed) {
  const { source, lead, painted, state, shown_s } = strip;
  const received_s = feed ? feed.signal.end_s : null,
    painted_s = Number.isNaN(shown_s) ? null : shown_s;
  const painted_time = feed && painted_s !== null ? feed.signal.timeOf(painted_s, feed.playout.speed) : null;
  return { source, lead, received_s, painted_s, painted_time, painted, state };
}
