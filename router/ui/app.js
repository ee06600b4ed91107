// The dashboard: what each device holds, which models there are, who waits and why, what happened, and the requests.
//
// Everything that comes from models, files and clients is text here: html`` makes text nodes, never markup. A row is
// drawn again only if its entry has changed, or if it shows a time that runs.

import { Component, createContext, html, render, useContext, useEffect, useMemo, useRef, useState } from "./vendor.js";
import { EMPTY, NeedsKey, ask, follow, isRunning, modelPath, send, setKey, url } from "./data.js";

const SHOWN_ROWS = 60;
const LANES_S = 900;
const COLORS = 8;

// Words and amounts

const MIB = 2 ** 20;
const GIB = 2 ** 30;

export function bytes(count) {
  if (count === null || count === undefined) return "";
  if (count >= GIB) return `${(count / GIB).toFixed(1)} GiB`;
  return `${Math.round(count / MIB)} MiB`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 10) return `${seconds.toFixed(seconds < 1 ? 2 : 1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

const age = (seconds) => (seconds == null ? "" : duration(seconds < 120 ? Math.round(seconds) : seconds).replace(/\.\d+/, ""));
export const count = (number) => (number === null || number === undefined ? "" : number.toLocaleString("en"));
export const tokens = (number) => (number >= 10000 ? `${Math.round(number / 1024)}k` : count(number));
const counted = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");
const sum = (values) => values.reduce((all, value) => all + value, 0);

// What a time that was told with an entry is by now: `idle` grows, the others shrink.
const older = (entry, name, now) => (entry[name] == null ? null : entry[name] + Math.max(0, now - entry.got));
const nearer = (entry, name, now) => (entry[name] == null ? null : Math.max(0, entry[name] - (now - entry.got)));

// A model's state in words: the class of its mark, and the text.
export function stateOf(model, now) {
  if (model.stopping) return ["stopping", "stopping"];
  if (model.state === "loading") return ["loading", "loading"];
  if (model.state === "downloading") return ["loading", model.progress == null ? "waits to download" : "downloading"];
  if (model.state === "loaded" || model.state === "sleeping") {
    if (model.draining) return ["draining", model.leases ? `finishing ${counted(model.leases, "request")}` : "about to end"];
    if (model.leases) return ["busy", model.slots ? `busy ${model.leases}/${model.slots}` : `busy, ${model.leases}`];
    if (model.state === "sleeping") return ["sleeping", "sleeping"];
    return ["loaded", `idle ${age(older(model, "idle", now))}`];
  }
  if (model.waiting) return ["waiting", `${counted(model.waiting, "request")} waiting`];
  if (model.failed || model.failures) return ["failed", model.failures > 1 ? `failed ${model.failures} times` : "failed"];
  return model.error ? ["failed", "cannot be loaded"] : ["unloaded", "not loaded"];
}

export const hasProcess = (model) =>
  model.stopping || ["loaded", "sleeping", "loading", "downloading"].includes(model.state);
const isInMemory = (model) => model.state === "loaded" || model.state === "sleeping";

// Colors of models, by name. A model keeps its color while the page is open, unless another one in memory has the same.
// So parts are drawn again when `inMemory` is another set.
const colors = new Map();

function paint(inMemory) {
  const taken = new Set();
  for (const id of inMemory) {
    let color = colors.get(id);
    if (color === undefined || taken.has(color)) {
      const others = new Set([...taken, ...[...inMemory].map((other) => colors.get(other))]);
      color = [...Array(COLORS).keys()].find((number) => !others.has(number)) ?? colors.size % COLORS;
      colors.set(id, color);
    }
    taken.add(color);
  }
}

function colorOf(id) {
  if (!colors.has(id)) colors.set(id, colors.size % COLORS);
  return `--c:var(--c${colors.get(id)})`;
}

// What the page can do. `tell` shows a line for a while; an error stays longer.

export const Actions = createContext(null);

function actions(tell, needsKey) {
  // Do something, and say what came of it. Returns null if it failed.
  const act = async (what, done) => {
    for (;;) {
      try {
        const answer = await what();
        const text = typeof done === "function" ? done(answer) : done;
        if (text) tell(text);
        return answer;
      } catch (error) {
        if (!(error instanceof NeedsKey)) {
          tell(error.message || "The router did not answer.", true);
          return null;
        }
        await needsKey(error.message);
      }
    }
  };
  const post = (path, body, done) => act(() => ask("POST", path, { body }), done);
  return {
    act,
    tell,
    load: (model, settings = {}) => post("models/load", { model, ...settings, wait: false }),
    unload: (model, more = {}) => post("models/unload", { model, ...more }),
    pin: (model, pinned) => post(modelPath(model, "pin"), { pinned }),
    pull: (model) => post("models", { model }, (answer) => `${answer.model}: the download has begun`),
    reload: () => post("models/reload", {}, reloaded),
    stop: (id) => act(() => send("DELETE", `router/requests/${encodeURIComponent(id)}`), `Request ${id} is stopped`),
  };
}

function reloaded({ added = [], changed = [], removed = [] }) {
  const parts = [["new", added], ["changed", changed], ["removed", removed]].filter(([, names]) => names.length);
  const text = parts.map(([word, names]) => `${names.length} ${word} (${names.slice(0, 5).join(", ")})`).join(", ");
  return `The presets were read again: ${text || "nothing has changed"}`;
}

// The current second, for times that run.
function useNow() {
  const [now, set] = useState(Date.now() / 1000);
  useEffect(() => {
    const timer = setInterval(() => document.hidden || set(Date.now() / 1000), 1000);
    return () => clearInterval(timer);
  }, []);
  return now;
}

// A part of the page that is drawn again only if one of its properties has changed.
class Still extends Component {
  shouldComponentUpdate(next) {
    for (const name in next) if (next[name] !== this.props[name]) return true;
    return false;
  }
}

// Head

function Line({ rates }) {
  const most = Math.max(1, ...rates.map(([, rate]) => rate));
  const last = rates.length ? rates[rates.length - 1][0] : 0;
  const points = rates.map(([second, rate]) => `${(96 * (second - last + 119)) / 119},${17 - (15 * rate) / most}`);
  return html`<svg width="96" height="18" role="img" aria-label="tokens per second in the last two minutes">
    <polyline class="line" points=${points.join(" ")} />
  </svg>`;
}

function Head({ state, dialog }) {
  const { reload, unload, tell } = useContext(Actions);
  const { totals } = state;
  const idle = state.models.filter((m) => isInMemory(m) && !m.leases && !m.pinned && !m.draining && !m.waiting);
  const unloadIdle = async () => {
    for (const model of idle) await unload(model.id);
    tell(idle.length ? `${counted(idle.length, "idle model")} unloaded` : "No model is idle");
  };
  return html`<header>
    <h1>llama-router</h1>
    <span role="status" class=${state.isLive ? "mark loaded" : "mark waiting"}>${state.isLive ? "live" : "connecting"}</span>
    <span><b class="num">${count(totals.running ?? 0)}</b> running</span>
    <span><b class="num">${count(totals.waiting ?? 0)}</b> waiting</span>
    <span><b class="num">${Math.round(totals.tokens_per_second ?? 0)}</b> tokens/s <${Line} rates=${state.rates} /></span>
    <span class="dim">
      ${counted(totals.requests_1h ?? 0, "request")}, <span class=${totals.errors_1h ? "bad" : ""}>${counted(totals.errors_1h ?? 0, "error")}</span> in the last hour
    </span>
    <nav aria-label="actions">
      <a class="button" href=${url("")}>Chat</a>
      <button onClick=${() => dialog("pull")}>Pull...</button>
      <button onClick=${reload}>Reload presets</button>
      <button onClick=${unloadIdle}>Unload idle</button>
      <button onClick=${() => dialog("key")}>Key</button>
    </nav>
  </header>`;
}

// Memory

const PHASES = { loading: "loading", stopping: "stopping", sleeping: "sleeping" };

// What one model holds of a device. What is promised to it, and not taken yet, is dashed.
function Part({ part, width, color }) {
  const { model, phase, promised = 0 } = part;
  const taken = part.bytes - promised;
  const says = `${model}: ${bytes(taken)}, ${phase}${promised ? `, and ${bytes(promised)} promised` : ""}`;
  return html`
    ${taken > 0 && html`<i class="part ${PHASES[phase] ?? ""}" style="${color};${width(taken)}" title=${says}>${model} ${bytes(taken)}</i>`}
    ${promised > 0 && html`<i class="part promised" style="${color};${width(promised)}" title=${says}>${taken > 0 ? "" : model}</i>`}`;
}

class Device extends Still {
  render({ device, inMemory, showsNode }) {
    const { total, free, margin = 0, other = 0, held = [] } = device;
    // As the router counts: what the machine says is free, and no more than what is booked leaves.
    const booked = sum(held.map((h) => h.bytes)) + (other ?? 0);
    const room = free == null ? null : Math.max(0, Math.min(free, total == null ? free : total - booked) - margin);
    const part = (size) => `width:${total ? ((100 * size) / total).toFixed(2) : 0}%`;
    const words = held.map((h) => `${h.model} ${bytes(h.bytes)} ${h.phase}`);
    const says = [...words, `other programs ${bytes(other)}`, `${bytes(room)} to give`, `margin ${bytes(margin)}`];
    return html`<div class="device">
      <div>
        <b>${showsNode ? `${device.node} ${device.name}` : device.name}</b> <small>${[device.label, bytes(total)].filter(Boolean).join(", ")}</small>
        ${device.short && html` <small class="warn">short of memory</small>`}
      </div>
      ${device.lost
        ? html`<div class="bad">lost: ${device.lost}</div>`
        : html`<div class="bar" role="img" aria-label="${device.name}: ${says.join(", ")}">
            ${held.map((h) => html`<${Part} key=${h.model} part=${h} width=${part} color=${colorOf(h.model)} />`)}
            <i class="other" style=${part(other)} title="other programs: ${bytes(other)}"></i>
            <i class="free">${room > total * 0.06 ? `${bytes(room)} free` : ""}</i>
            <i class="margin" style=${part(Math.min(margin, free ?? 0))} title="margin: ${bytes(margin)}"></i>
          </div>`}
      <div class="num dim right">${room == null ? "" : `${bytes(room)} to give`}</div>
    </div>`;
  }
}

function Memory({ state, inMemory }) {
  const nodes = new Set(state.devices.map((device) => device.node));
  return html`<section class="wide" aria-labelledby="memory">
    <h2 id="memory">Memory <small>what each device holds, and what is left to give</small></h2>
    <div class="pad">
      ${state.devices.map((device) => html`<${Device} key=${device.key} device=${device} inMemory=${inMemory} showsNode=${nodes.size > 1} />`)}
      <div class="legend">
        <span><i class="part" style="--c:var(--c0)"></i>a model</span>
        <span><i class="part loading" style="--c:var(--c0)"></i>loading</span>
        <span><i class="part stopping" style="--c:var(--c0)"></i>stopping</span>
        <span><i class="part promised" style="--c:var(--c0)"></i>promised</span>
        <span><i class="other"></i>other programs</span>
        <span><i class="margin"></i>margin, kept free</span>
      </div>
    </div>
  </section>`;
}

// Models

class Model extends Still {
  render({ model, now, isOpen, open, dialog, inMemory, names }, _, { unload }) {
    const [mark, text] = stateOf(model, now);
    const held = Object.keys(model.held ?? {});
    const ends = nearer(model, "expires_in", now);
    const retry = nearer(model, "retry_in", now);
    return html`<tr class=${model.error || model.warning ? "explained" : ""}>
        <td><div class="name">
          <span class="swatch" style=${held.length ? colorOf(model.id) : ""}></span>
          <span>
            <button class="link" aria-expanded=${isOpen} onClick=${() => open(isOpen ? null : model.id)}>${model.id}</button>
            ${model.pinned && html`<span class="chip" title="never evicted">pinned</span>`}
            ${(model.aliases ?? []).slice(0, 3).map((alias) => html`<span class="chip aliases">${alias}</span>`)}
            <small class="phone">${bytes(model.need)}</small>
          </span>
        </div></td>
        <td>
          <span class="mark ${mark}">${text}</span>
          ${model.progress != null && html` <progress max="1" value=${model.progress} aria-label="progress of ${model.id}"></progress>
            <small class="num">${Math.round(model.progress * 100)} %${model.eta != null ? `, ${duration(nearer(model, "eta", now))}` : ""}</small>`}
          ${model.waiting > 0 && mark !== "waiting" && html` <small class="warn">${count(model.waiting)} waiting</small>`}
        </td>
        <td class="num third">${model.tokens_per_second ? Math.round(model.tokens_per_second) : ""}</td>
        <td class="num third">${tokens(model.context)}</td>
        <td class="num wide-only" title=${model.source ? `by ${model.source}` : ""}>${bytes(model.need)}</td>
        <td class="second">${held.map((key) => names.get(key) ?? key).join(" + ")}</td>
        <td class="second dim">${ends == null || model.leases ? "" : `in ${duration(ends)}`}</td>
        <td class="acts">
          ${hasProcess(model)
            ? html`<button disabled=${model.stopping} aria-label="Unload ${model.id}" onClick=${() => unload(model.id)}>Unload</button>`
            : html`<button aria-label="Load ${model.id}" onClick=${() => dialog("load", model.id)}>Load...</button>`}
        </td>
      </tr>
      ${model.error && html`<tr class="error"><td colspan="8">
        ${model.error}${retry ? `. The next try is in ${duration(retry)}.` : ""}
      </td></tr>`}
      ${model.warning && html`<tr class="error"><td colspan="8" class="warn">${model.warning}</td></tr>`}`;
  }
}
Model.contextType = Actions;

// One model, and what is shown of it when it is open.
function Row({ Details, ...row }) {
  const { model, isOpen, names, dialog, open } = row;
  return html`<${Model} ...${row} />
    ${isOpen && Details && html`<${Details} model=${model} names=${names} dialog=${dialog} close=${() => open(null)} />`}`;
}

// Whether something in the row runs with the clock.
const runs = (model) => model.state !== "unloaded" || model.retry_in != null;

function Models({ state, now, selected, open, dialog, inMemory, Details }) {
  const [filter, setFilter] = useState("");
  const [showsAll, setShowsAll] = useState(false);
  const field = useRef(null);
  useEffect(() => {
    const focus = (event) => {
      const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "");
      if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        field.current?.focus();
      }
    };
    addEventListener("keydown", focus);
    return () => removeEventListener("keydown", focus);
  }, []);
  const names = useMemo(() => new Map(state.devices.map((device) => [device.key, device.name])), [state.devices]);
  const sorted = useMemo(() => {
    const wanted = filter.toLowerCase();
    const rank = (model) => (hasProcess(model) ? 0 : model.waiting ? 1 : model.failed ? 2 : 3);
    return state.models
      .filter((model) => !model.unlisted || hasProcess(model))
      .filter((model) => [model.id, ...(model.aliases ?? [])].some((name) => name.toLowerCase().includes(wanted)))
      .map((model, at) => [rank(model), at, model])
      .sort(([a, i], [b, j]) => a - b || i - j)
      .map(([, , model]) => model);
  }, [state.models, filter]);
  const shown = showsAll ? sorted : sorted.filter((model, at) => at < SHOWN_ROWS || model.id === selected);
  const loaded = state.models.filter(isInMemory).length;
  return html`<section class="models ${selected ? "opened" : ""}" aria-labelledby="models">
    <h2 id="models">
      Models <small>${loaded} of ${count(state.models.length)} in memory</small>
      <span class="tools"><input ref=${field} type="search" placeholder="Filter  /" aria-label="filter models" value=${filter} onInput=${(e) => setFilter(e.target.value)} /></span>
    </h2>
    <div class="scroll" tabindex="0" role="region" aria-label="table of models">
      <table>
        <thead>
          <tr><th>model</th><th>state</th><th class="num third">tokens/s</th><th class="num third">context</th><th class="num wide-only">needs</th><th class="second">on</th><th class="second">ends</th><th><span class="unseen">actions</span></th></tr>
        </thead>
        <tbody>
          ${shown.map((model) => html`<${Row} key=${model.id} model=${model} now=${runs(model) ? now : 0} isOpen=${model.id === selected} open=${open} dialog=${dialog} inMemory=${hasProcess(model) ? inMemory : null} names=${names} Details=${Details} />`)}
        </tbody>
      </table>
    </div>
    ${sorted.length === 0 && html`<p class="pad dim">${filter ? "No model has such a name." : "There is no model yet. Pull one, or name a folder with --models-dir."}</p>`}
    ${!showsAll && sorted.length > SHOWN_ROWS && html`<p class="pad"><button onClick=${() => setShowsAll(true)}>Show all ${count(sorted.length)}</button></p>`}
  </section>`;
}

// Who waits, and why

function Waiting({ queue, limits, now }) {
  const all = sum(queue.map((entry) => entry.requests));
  return html`<section aria-labelledby="waiting">
    <h2 id="waiting">Waiting <small>${queue.length ? `${counted(all, "request")} for ${counted(queue.length, "model")}` : "nobody"}${limits.queue_max ? `; at most ${count(limits.queue_max)}` : ""}${limits.queue_timeout ? `, for ${duration(limits.queue_timeout)}` : ""}</small></h2>
    <ol class="queue">
      ${queue.map((entry) => {
        const why = entry.why ?? {};
        const missing = Object.entries(why.missing ?? {}).map(([key, size]) => `${bytes(size)} on ${key.split("/").pop()}`);
        const drain = why.drain_in == null ? null : Math.max(0, why.drain_in - (now - entry.got));
        return html`<li key=${entry.model}>
          <b class="num">${entry.position}</b>
          <span>
            <b>${entry.model}</b> <small>${counted(entry.requests, "request")}${entry.background ? ", background" : ""}</small><br />
            <span class="warn">${why.text}</span>
            ${missing.length > 0 && html`<br /><small>missing: ${missing.join(", ")}</small>`}
            ${drain != null && html`<br /><small>takes no more new requests in ${duration(drain)}</small>`}
          </span>
          <span class="num dim">${age(older(entry, "waited", now))}</span>
        </li>`;
      })}
    </ol>
  </section>`;
}

// What happened

const MARKS = { crash: "bad", load_failed: "bad", refused: "bad", drain: "warn", wait: "warn", pressure: "warn", lost: "bad" };

class Happening extends Still {
  render({ event: { at, model, kind, text } }) {
    return html`<li>
      <time class="num dim">${clock(at)}</time>
      <span><b>${model === "*" ? "router" : model}</b> <span class=${MARKS[kind] ?? ""}>${text}</span></span>
    </li>`;
  }
}

class Happened extends Still {
  render({ events, save }) {
    return html`<section aria-labelledby="happened">
      <h2 id="happened">What happened <small>and why</small>
        <span class="tools"><button onClick=${save}>Save</button></span>
      </h2>
      <ul class="events" tabindex="0" aria-label="events, the latest first">
        ${events.slice(0, SHOWN_ROWS).map((event) => html`<${Happening} key=${event.seq} event=${event} />`)}
        ${events.length === 0 && html`<li class="dim">Nothing yet.</li>`}
      </ul>
    </section>`;
  }
}

// The last 15 minutes: when each model was in memory, and when it served

const ENDS = new Set(["exit", "crash", "load_failed"]);
const GOES = new Set(["evict", "stop", "ttl"]);

export function lanes(state, now) {
  const from = now - LANES_S;
  const lane = new Map();
  const of = (id) => lane.get(id) ?? lane.set(id, { spans: [], busy: [], open: null }).get(id);
  const end = (found, at) => {
    if (found.open && at > from) found.spans.push({ ...found.open, to: at });
    found.open = null;
  };
  for (const event of [...state.events].reverse()) {
    const { kind, at, model } = event;
    if (kind === "start") {
      end(of(model), at);
      of(model).open = { kind: "loading", from: at };
    } else if (kind === "ready") {
      end(of(model), at);
      of(model).open = { kind: "loaded", from: at };
    } else if (ENDS.has(kind)) {
      const found = of(model);
      if (kind === "load_failed" && found.open) found.open.kind = "failed";
      end(found, at);
    } else if (GOES.has(kind)) {
      const found = of(model);
      found.open ??= { kind: "loaded", from };
      found.goes = at;
    }
  }
  for (const model of state.models) {
    if (!isInMemory(model) && model.state !== "loading" && !model.stopping) continue;
    of(model.id).open ??= { kind: model.state === "loading" ? "loading" : "loaded", from: model.started ?? from };
  }
  const alive = new Set(state.models.filter((m) => hasProcess(m) && m.state !== "downloading").map((m) => m.id));
  for (const [id, found] of lane) end(found, alive.has(id) ? now : found.goes ?? now);
  for (const request of state.requests) {
    const found = lane.get(request.model);
    if (!found || request.phase === "waiting") continue;
    const begun = request.at + (request.waited ?? 0) + (request.load ?? 0);
    const to = isRunning(request) ? now : request.at + (request.seconds ?? 0);
    if (to > from) found.busy.push([Math.max(begun, from), to]);
  }
  const shown = [...lane].filter(([, found]) => found.spans.some((span) => span.to > from));
  return shown.sort(([a], [b]) => (a < b ? -1 : 1)).slice(0, 40);
}

const LANE = 19;
const LEFT = 150;
const WIDTH = 1000;

function Lanes({ state, now, inMemory }) {
  const server = now + state.offset;
  const every = Math.floor(now / 3); // it moves by three pixels in so many seconds
  return useMemo(() => draw(lanes(state, server), server, inMemory), [every, inMemory]);
}

function draw(found, server, inMemory) {
  const x = (at) => LEFT + (WIDTH * (Math.max(at, server - LANES_S) - server + LANES_S)) / LANES_S;
  const height = found.length * LANE;
  return html`<section class="wide" aria-labelledby="lanes">
    <h2 id="lanes">Last 15 minutes <small>pale: in memory; solid: serving; red: failed to load</small></h2>
    <div class="pad scroll" tabindex="0" role="region" aria-label="the last 15 minutes">
      ${found.length === 0 && html`<p class="dim">No model was in memory.</p>`}
      <svg class="lanes" viewBox="0 0 ${LEFT + WIDTH} ${height + 18}" role="img" aria-label="which models were in memory: ${found.map(([id]) => id).join(", ") || "none"}">
        ${found.map(([id, { spans, busy }], at) => html`<g key=${id} style=${colorOf(id)}>
          <text x="0" y=${at * LANE + 13}>${id.length > 22 ? `${id.slice(0, 21)}...` : id}</text>
          ${spans.map((span) => html`<rect class=${span.kind} x=${x(span.from)} y=${at * LANE + 5} width=${Math.max(1, x(span.to) - x(span.from))} height="8" rx="2"><title>${id}: ${span.kind}</title></rect>`)}
          ${busy.map(([begun, to]) => html`<rect class="served" x=${x(begun)} y=${at * LANE + 2} width=${Math.max(1, x(to) - x(begun))} height="14" rx="2"><title>${id}: serving</title></rect>`)}
        </g>`)}
        ${[15, 10, 5, 0].map((minutes) => html`<text x=${LEFT + (WIDTH * (15 - minutes)) / 15 - (minutes ? 0 : 24)} y=${height + 14}>${minutes ? `${minutes} min` : "now"}</text>`)}
      </svg>
    </div>
  </section>`;
}

// Requests

class Request extends Still {
  render({ request, now, stop, inMemory }) {
    const running = isRunning(request);
    const share = request.prompt ? `${Math.round((100 * (request.cached ?? 0)) / request.prompt)} %` : "";
    return html`<tr>
      <td class="num">${clock(request.at)}</td>
      <td><span class="swatch" style=${inMemory ? colorOf(request.model) : ""}></span>${request.model}
        ${request.error && html`<div class="bad wraps">${request.error}</div>`}</td>
      <td class="third">${request.path}</td>
      <td>${running
        ? html`<span class="mark ${request.phase === "waiting" ? "waiting" : "busy"}">${request.phase}</span>
            <button aria-label="Stop request ${request.id}" onClick=${() => stop(request.id)}>Stop</button>`
        : request.phase === "left"
          ? html`<span class="dim" title="the client left before the answer ended">left</span>`
          : html`<span class=${request.status >= 400 ? "bad" : ""}>${request.status || request.phase}</span>`}</td>
      <td class="num">${request.waited ? duration(request.waited) : ""}</td>
      <td class="num third">${request.load ? duration(request.load) : ""}</td>
      <td class="num">${duration(request.ttft)}</td>
      <td class="num third">${tokens(request.prompt)}</td>
      <td class="num third">${share}</td>
      <td class="num">${tokens(request.generated)}</td>
      <td class="num">${request.tokens_per_second ? Math.round(request.tokens_per_second) : ""}</td>
      <td class="num">${duration(running ? older(request, "seconds", now) : request.seconds)}</td>
      <td class="third dim"><span class="cut" title=${request.agent}>${[request.client, request.agent].filter(Boolean).join(" ")}</span></td>
      <td class="third dim">${request.id}</td>
    </tr>`;
  }
}

function Requests({ requests, now, inMemory }) {
  const { stop } = useContext(Actions);
  const [onlyErrors, setOnlyErrors] = useState(false);
  const [paused, setPaused] = useState(null);
  const shown = (paused ?? requests).filter((request) => !onlyErrors || request.error || (request.status >= 400 && request.phase !== "left")).slice(0, 60);
  return html`<section class="wide" aria-labelledby="requests">
    <h2 id="requests">Requests <small>waited for memory, load of the model, first token</small>
      <span class="tools">
        <button aria-pressed=${onlyErrors} onClick=${() => setOnlyErrors(!onlyErrors)}>Errors only</button>
        <button aria-pressed=${!!paused} onClick=${() => setPaused(paused ? null : requests)}>Pause</button>
      </span>
    </h2>
    <div class="scroll" tabindex="0" role="region" aria-label="table of requests">
      <table>
        <thead><tr><th>time</th><th>model</th><th class="third">path</th><th>status</th><th class="num">waited</th><th class="num third">load</th><th class="num">first token</th><th class="num third">prompt</th><th class="num third">cached</th><th class="num">generated</th><th class="num">tokens/s</th><th class="num">total</th><th class="third">client</th><th class="third">id</th></tr></thead>
        <tbody>${shown.map((request) => html`<${Request} key=${request.id} request=${request} now=${isRunning(request) ? now : 0} stop=${stop} inMemory=${inMemory.has(request.model) ? inMemory : null} />`)}</tbody>
      </table>
    </div>
    ${shown.length === 0 && html`<p class="pad dim">${onlyErrors ? "No request has failed." : "No request yet."}</p>`}
  </section>`;
}

// Dialogs

export function Dialog({ title, close, children }) {
  const dialog = useRef(null);
  useEffect(() => {
    dialog.current.showModal();
    return () => dialog.current?.close();
  }, []);
  return html`<dialog ref=${dialog} aria-labelledby="dialog" onCancel=${close} onClose=${close}>
    <h2 id="dialog">${title}</h2>
    ${children}
  </dialog>`;
}

function KeyDialog({ text, close }) {
  const save = (event) => {
    event.preventDefault();
    setKey(new FormData(event.target).get("key").trim());
    close();
  };
  return html`<${Dialog} title="API key" close=${close}>
    <form onSubmit=${save}>
      <p>${text || "The key is kept for this tab, and sent to this router alone."}</p>
      <label>Key <input name="key" type="password" autocomplete="off" autofocus /></label>
      <p class="buttons"><button type="submit" class="main">Use it</button> <button type="button" onClick=${close}>Cancel</button></p>
    </form>
  <//>`;
}

function PullDialog({ close }) {
  const { pull } = useContext(Actions);
  const begin = async (event) => {
    event.preventDefault();
    const name = new FormData(event.target).get("name").trim();
    if (name && (await pull(name))) close();
  };
  return html`<${Dialog} title="Pull a model" close=${close}>
    <form onSubmit=${begin}>
      <p>From Hugging Face, into the cache. Its progress is shown among the models.</p>
      <label>Name <input name="name" placeholder="user/repo-GGUF:Q4_K_M" autocomplete="off" spellcheck=${false} autofocus /></label>
      <p class="buttons"><button type="submit" class="main">Pull</button> <button type="button" onClick=${close}>Cancel</button></p>
    </form>
  <//>`;
}

// All of it

class App extends Component {
  constructor() {
    super();
    this.state = { data: EMPTY, notes: [], dialog: null, selected: new URLSearchParams(location.hash.slice(1)).get("m"), panel: null };
    this.asked = []; // those who wait for a key
    this.actions = actions(this.tell, this.needsKey);
  }

  tell = (text, isError = false) => {
    const note = { text, isError };
    this.setState(({ notes }) => ({ notes: [...notes.slice(-3), note] }));
    setTimeout(() => this.setState(({ notes }) => ({ notes: notes.filter((other) => other !== note) })), isError ? 12000 : 5000);
  };

  needsKey = (text) => {
    this.setState({ dialog: { kind: "key", text } });
    return new Promise((resolve) => this.asked.push(resolve));
  };

  dialog = (kind, model = null) => {
    if (kind === "load") this.loadPanel();
    this.setState({ dialog: { kind, model } });
  };

  close = () => {
    const was = this.state.dialog;
    this.setState({ dialog: null });
    if (was?.kind === "key") for (const resolve of this.asked.splice(0)) resolve();
  };

  open = (selected) => {
    if (selected) this.loadPanel();
    history.replaceState(null, "", selected ? `#m=${encodeURIComponent(selected)}` : location.pathname + location.search);
    this.setState({ selected });
  };

  // What a model's details and its load dialog need comes when one is opened for the first time.
  loadPanel() {
    if (!this.state.panel) import("./panel.js").then((panel) => this.setState({ panel }));
  }

  save = async () => {
    const response = await this.actions.act(() => send("GET", "router/events", { query: { format: "jsonl" } }));
    if (!response) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = `llama-router-events-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.jsonl`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  componentDidMount() {
    this.end = new AbortController();
    if (this.state.selected) this.loadPanel();
    let data = EMPTY;
    let isDue = false; // all that comes within one frame is drawn at once
    const update = (change) => {
      data = change(data);
      if (isDue) return;
      isDue = true;
      requestAnimationFrame(() => {
        isDue = false;
        this.setState({ data });
      });
    };
    follow(update, this.needsKey, this.end.signal);
  }

  componentWillUnmount() {
    this.end.abort();
  }

  render(_, { data, notes, dialog, selected, panel }) {
    return html`<${Actions.Provider} value=${this.actions}>
      <${Page} data=${data} selected=${selected} open=${this.open} dialog=${this.dialog} save=${this.save} panel=${panel} />
      ${dialog?.kind === "key" && html`<${KeyDialog} text=${dialog.text} close=${this.close} />`}
      ${dialog?.kind === "pull" && html`<${PullDialog} close=${this.close} />`}
      ${dialog?.kind === "load" && panel && html`<${panel.LoadDialog} id=${dialog.model} close=${this.close} />`}
      <div class="notes" role="log" aria-live="polite">${notes.map((note) => html`<p class=${note.isError ? "bad" : ""}>${note.text}</p>`)}</div>
    <//>`;
  }
}

function Page({ data, selected, open, dialog, save, panel }) {
  const now = useNow();
  const held = data.devices.flatMap((device) => (device.held ?? []).map((part) => part.model)).sort().join("\n");
  const inMemory = useMemo(() => {
    const found = new Set(held ? held.split("\n") : []);
    paint(found);
    return found;
  }, [held]);
  return html`<${Head} state=${data} dialog=${dialog} />
    <main>
      <${Memory} state=${data} inMemory=${inMemory} />
      <${Models} state=${data} now=${now} selected=${selected} open=${open} dialog=${dialog} inMemory=${inMemory} Details=${panel?.Details} />
      <div class="side">
        <${Waiting} queue=${data.queue} limits=${data.limits} now=${now} />
        <${Happened} events=${data.events} save=${save} />
      </div>
      <${Lanes} state=${data} now=${now} inMemory=${inMemory} />
      <${Requests} requests=${data.requests} now=${now} inMemory=${inMemory} />
    </main>
    <footer class="dim">llama-router ${data.version ?? ""}, ${data.engine.kind ?? ""} ${data.engine.build ?? ""}${data.uptime ? `, up ${duration(data.uptime)}` : ""}</footer>`;
}

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
