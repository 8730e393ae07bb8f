// The strips on the page in; each painted once a frame while it can be seen, by one loop for all, out.

/** `feeds` maps a source to {signal, playout}; `look()` tells scale and colours. */
export class Loop {
  constructor(feeds, look) {
    this.feeds = feeds;
    this.look = look;
    this.strips = new Set();
    this.byHost = new WeakMap();
    this.frames = 0;
    this.first_ms = null;
    this.isFrozen = true;
    this.sizes = new ResizeObserver((entries) => entries.forEach((entry) => this.resize(entry)));
    this.sights = new IntersectionObserver((entries) => entries.forEach((entry) => this.see(entry)));
    document.addEventListener("visibilitychange", () => this.wake());
    this.next = requestAnimationFrame((now) => this.frame(now));
  }

  add(strip) {
    this.strips.add(strip);
    this.byHost.set(strip.host, strip);
    this.sizes.observe(strip.host);
    this.sights.observe(strip.host);
    return strip;
  }

  remove(strip) {
    this.strips.delete(strip);
    this.sizes.unobserve(strip.host);
    this.sights.unobserve(strip.host);
  }

  /** Scale, colours or samples are others: paint everything anew. */
  refit() {
    for (const strip of this.strips) this.fit(strip, strip.host.clientWidth, strip.host.clientHeight);
  }

  /** Whether what is on the screen stays as it is, as nothing comes any more. */
  freeze(isFrozen) {
    this.isFrozen = isFrozen;
  }

  resize(entry) {
    const strip = this.byHost.get(entry.target),
      { width, height } = entry.contentRect;
    if (strip && width && height) this.fit(strip, width, height);
  }

  // What is frozen is painted once more as it was.
  fit(strip, width, height) {
    strip.fit(width, height, this.look());
    const feed = this.feeds.get(strip.source);
    if (feed && this.isFrozen) strip.paint(feed.signal, feed.playout.at_s);
  }

  see(entry) {
    const strip = this.byHost.get(entry.target);
    if (strip) strip.isSeen = entry.isIntersecting;
  }

  // A hidden page is given no frames; what came meanwhile is in the rings.
  wake() {
    cancelAnimationFrame(this.next);
    if (!document.hidden) this.next = requestAnimationFrame((now) => this.frame(now));
  }

  frame(now_ms) {
    this.next = requestAnimationFrame((now) => this.frame(now));
    if (this.isFrozen) return;
    let isPainted = false;
    for (const strip of this.strips) if (strip.isSeen) isPainted = this.paint(strip, now_ms / 1000) || isPainted;
    if (!isPainted) return;
    this.frames++;
    this.first_ms ??= performance.now();
  }

  paint(strip, now_s) {
    const feed = this.feeds.get(strip.source);
    return feed ? strip.paint(feed.signal, feed.playout.at(now_s)) : false;
  }
}
