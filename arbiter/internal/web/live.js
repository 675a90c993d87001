"use strict";
// Keeps the page up to date by what the server sends, and says when it does not.
(() => {
  const live = document.getElementById("live");
  const link = document.getElementById("link");
  const linkText = document.getElementById("link-text");
  const lost = document.getElementById("lost");
  const announce = document.getElementById("announce");
  const silentMax = 5000; // ms without a word: the server sends some every 2 s
  let heard = Date.now(), stale = false, lastOpen = 0, source;

  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
  function local(t) {
    const text = clock.format(t);
    return t.toDateString() === new Date().toDateString() ? text : `${day.format(t)}, ${text}`;
  }
  // The server writes times in UTC; readers want their own.
  function localize(root) {
    for (const e of root.querySelectorAll("time[datetime]")) {
      const text = local(new Date(e.dateTime));
      if (e.textContent !== text) e.textContent = text;
    }
  }

  // Makes the children of `old` like those of `now`, touching only what differs:
  // focus, selection, scrolling and charts stay.
  function morph(old, now) {
    const want = [...now.childNodes];
    want.forEach((n, i) => {
      const o = old.childNodes[i];
      if (!o) old.append(n);
      else if (o.nodeType !== n.nodeType || o.nodeName !== n.nodeName) o.replaceWith(n);
      else if (o.nodeType !== Node.ELEMENT_NODE) { if (o.data !== n.data) o.data = n.data; }
      else {
        const same = o.dataset.chart && o.dataset.chart === n.dataset.chart && o.dataset.vm === n.dataset.vm;
        for (const a of [...o.attributes]) if (!n.hasAttribute(a.name)) o.removeAttribute(a.name);
        for (const a of n.attributes) if (o.getAttribute(a.name) !== a.value) o.setAttribute(a.name, a.value);
        if (!same) morph(o, n);
      }
    });
    while (old.childNodes.length > want.length) old.lastChild.remove();
  }

  // Says aloud what has changed of the states, and puts them into the title.
  const title = document.title;
  let said = states();
  function states() { return new Map([...live.querySelectorAll("[data-state]")].map((e) => e.dataset.state.split(/: (?=[^:]*$)/))); }
  function tell() {
    const now = states();
    const changed = [...now].filter(([k, v]) => said.get(k) !== v);
    if (changed.length) announce.textContent = changed.map(([k, v]) => `${k} is now: ${v}`).join(". ");
    said = now;
    document.title = now.size === 1 ? `${[...now.values()][0]} · ${title}` : title;
  }

  function up() {
    heard = Date.now();
    if (stale || !link.classList.contains("up")) {
      stale = false;
      document.body.classList.remove("stale");
      lost.hidden = true;
      link.className = "link up";
      linkText.textContent = "live";
    }
  }
  function check() {
    const ago = Date.now() - heard;
    if (source.readyState === EventSource.OPEN && ago < silentMax) return;
    if (source.readyState === EventSource.CONNECTING && ago < 1500) return; // a moment's grace
    if (!stale) {
      stale = true;
      document.body.classList.add("stale");
      link.className = "link down";
      linkText.textContent = "connection lost";
      lost.textContent = `The connection to the arbiter is lost since ${local(new Date(heard))}. What you see is from then; the VMs may be in another state by now. Trying again.`;
      lost.hidden = false;
    }
    // A stream that has ended for good, or is silent, is opened anew.
    if (source.readyState !== EventSource.CONNECTING || Date.now() - lastOpen > silentMax) open();
  }

  function open() {
    if (Date.now() - lastOpen < 1000) return;
    lastOpen = Date.now();
    if (source) source.close();
    const query = new URLSearchParams({ page: document.body.dataset.page, vm: document.body.dataset.vm });
    source = new EventSource(`/events?${query}`);
    const on = (name, f) => source.addEventListener(name, (e) => { up(); f(JSON.parse(e.data)); });
    on("page", (text) => {
      const now = new DOMParser().parseFromString(`<main>${text}</main>`, "text/html").querySelector("main");
      localize(now);
      morph(live, now);
      tell();
      if (live.querySelector("[data-chart]:not(:has(svg))")) charts.draw();
    });
    on("series", (s) => { charts.add(s.vm, s.points); charts.draw(s.vm); });
    on("beat", () => {});
  }

  localize(live);
  charts.draw();
  open();
  setInterval(check, 500);
})();
