// What is shown of one model when it is opened: its memory, its settings, its log and a conversation with it; and the
// dialog in which it is loaded with other settings. It is fetched when the first model is opened.

import { html, useContext, useEffect, useRef, useState } from "./vendor.js";
import { NeedsKey, ask, events, lines, modelPath, send, url } from "./data.js";
import { Actions, Dialog, bytes, count, duration, hasProcess, tokens } from "./app.js";

const LOG_LINES = 500;
const CACHE_TYPES = ["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"];
const TYPING_MS = 250; // without a key pressed, before an estimate is asked for

// An answer of the router for as long as its query stays the same: [answer, error].
function useAnswer(path, query, isWanted = true) {
  const [found, set] = useState([null, null]);
  const key = JSON.stringify([path, query, isWanted]);
  useEffect(() => {
    if (!isWanted) return undefined;
    const end = new AbortController();
    ask("GET", path, { query, signal: end.signal })
      .then((answer) => set([answer, null]))
      .catch((error) => end.signal.aborted || set([null, error.message]));
    return () => end.abort();
  }, [key]);
  return found;
}

// Memory of an estimate, device by device

const PARTS = [["weights", "weights"], ["kv", "KV cache"], ["compute", "compute"], ["fixed", "process"]];

function Shares({ estimate }) {
  const devices = [...estimate.devices, estimate.host].filter((share) => share.total > 0);
  return html`<table class="shares">
    <thead><tr><th>device</th>${PARTS.map(([, word]) => html`<th class="num">${word}</th>`)}<th class="num">all</th></tr></thead>
    <tbody>${devices.map((share) => html`<tr key=${share.name}>
      <td>${share.name}</td>${PARTS.map(([name]) => html`<td class="num">${share[name] ? bytes(share[name]) : ""}</td>`)}<td class="num">${bytes(share.total)}</td>
    </tr>`)}</tbody>
  </table>`;
}

// Load with settings

const FIELDS = { ctx_size: "", n_parallel: "", cache_type_k: "", cache_type_v: "" };

// The fields that were filled in, as the router reads them.
function settingsOf(fields, extra) {
  const settings = {};
  for (const [name, value] of Object.entries(fields)) {
    if (value === "") continue;
    settings[name] = name === "ctx_size" || name === "n_parallel" ? Number(value) : value;
  }
  const words = [...extra.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map((found) => found[1] ?? found[2] ?? found[3]);
  if (words.length) settings.extra_args = words;
  return settings;
}

export function LoadDialog({ id, close }) {
  const { act, tell } = useContext(Actions);
  const [fields, setFields] = useState(FIELDS);
  const [extra, setExtra] = useState("");
  const [asked, setAsked] = useState({ model: id });
  const [isLoading, setIsLoading] = useState(false);
  useEffect(() => {
    const { extra_args: words, ...settings } = settingsOf(fields, extra);
    const query = { model: id, ...settings, extra_args: words && JSON.stringify(words) };
    const timer = setTimeout(() => setAsked(query), TYPING_MS);
    return () => clearTimeout(timer);
  }, [id, fields, extra]);
  const [estimate, fault] = useAnswer("models/estimate", asked);
  const field = (name) => ({ name, value: fields[name], onInput: (e) => setFields({ ...fields, [name]: e.target.value }) });
  const choice = (name, label) => html`<label>${label}
    <select ...${field(name)}><option value="">as it is</option>${CACHE_TYPES.map((type) => html`<option>${type}</option>`)}</select>
  </label>`;
  const load = async (event) => {
    event.preventDefault();
    setIsLoading(true);
    const body = { model: id, ...settingsOf(fields, extra), wait: false };
    const answer = await act(() => ask("POST", "models/load", { body }), (a) => `${id}: ${a.status.replace("_", " ")}`);
    setIsLoading(false);
    if (answer) close();
  };
  return html`<${Dialog} title="Load ${id}" close=${close}>
    <form onSubmit=${load}>
      <div class="fields">
        <label>Context, in tokens <input type="number" min="0" step="256" placeholder=${estimate ? count(estimate.context) : "automatic"} ...${field("ctx_size")} /></label>
        <label>Requests at once <input type="number" min="1" max="256" placeholder="as it is" ...${field("n_parallel")} /></label>
        ${choice("cache_type_k", "KV cache, keys")}
        ${choice("cache_type_v", "KV cache, values")}
        <label class="whole">Further arguments <input placeholder="--no-mmap" spellcheck=${false} value=${extra} onInput=${(e) => setExtra(e.target.value)} /></label>
      </div>
      <div class="verdict" aria-live="polite">
        ${fault && html`<p class="bad">${fault}</p>`}
        ${estimate && html`<p class=${estimate.fits ? "" : "warn"}><b>${estimate.verdict}</b></p>
          ${estimate.evicts.length > 0 && html`<p>It would stop: ${estimate.evicts.map((name, at) => html`${at ? ", " : ""}<b>${name}</b>`)}.</p>`}
          <${Shares} estimate=${estimate} />
          <p class="dim">Context ${count(estimate.context)} tokens; up to ${count(estimate.max_context)} fit on this machine. By ${estimate.source}.</p>`}
        ${!estimate && !fault && html`<p class="dim">Asking what it would take...</p>`}
      </div>
      <p class="buttons"><button type="submit" class="main" disabled=${isLoading}>Load</button> <button type="button" onClick=${close}>Cancel</button></p>
    </form>
  <//>`;
}

// The log of the model's process, as it grows

function Log({ id }) {
  const [text, setText] = useState("");
  const box = useRef(null);
  useEffect(() => {
    const end = new AbortController();
    const read = async () => {
      const response = await send("GET", modelPath(id, "log"), { query: { lines: 200, follow: 1 }, signal: end.signal });
      let kept = [];
      let isDue = false;
      for await (const line of lines(response)) {
        kept.push(line);
        if (kept.length > LOG_LINES) kept = kept.slice(-LOG_LINES);
        if (!isDue) {
          isDue = true;
          setTimeout(() => ((isDue = false), end.signal.aborted || setText(kept.join("\n"))), 200);
        }
      }
    };
    read().catch((error) => end.signal.aborted || setText(error.message));
    return () => end.abort();
  }, [id]);
  const isAtEnd = useRef(true); // until somebody scrolls up
  const scrolled = ({ target }) => (isAtEnd.current = target.scrollHeight - target.scrollTop - target.clientHeight < 20);
  useEffect(() => {
    if (isAtEnd.current) box.current.scrollTop = box.current.scrollHeight;
  }, [text]);
  return html`<pre ref=${box} onScroll=${scrolled} tabindex="0" aria-label="log of ${id}">${text || "Its process has written nothing yet."}</pre>`;
}

// A conversation with the model

function Talk({ id }) {
  const { tell } = useContext(Actions);
  const [messages, setMessages] = useState([]);
  const [figures, setFigures] = useState("");
  const [running, setRunning] = useState(null);
  const box = useRef(null);
  useEffect(() => () => running?.abort(), [running]);
  useEffect(() => {
    if (box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [messages]);
  const say = async (event) => {
    event.preventDefault();
    const field = event.target.elements.text;
    const content = field.value.trim();
    if (!content || running) return;
    field.value = "";
    const asked = [...messages, { role: "user", content }];
    const answer = { role: "assistant", content: "", thoughts: "" };
    const end = new AbortController();
    setMessages([...asked, answer]);
    setRunning(end);
    setFigures("waits");
    try {
      const sent = asked.map(({ role, content: text }) => ({ role, content: text }));
      const body = { model: id, messages: sent, stream: true, stream_options: { include_usage: true }, timings_per_token: false };
      const response = await send("POST", "v1/chat/completions", { body, signal: end.signal });
      for await (const { event: kind, data } of events(response)) {
        if (kind === "comment") {
          setFigures(data.replace(/^:\s*/, "") || "waits");
          continue;
        }
        if (data === "[DONE]") continue; // who closes before the end of the answer counts as one that left
        const part = JSON.parse(data);
        if (part.error) throw new Error(part.error.message ?? "The answer was cut off.");
        const delta = part.choices?.[0]?.delta ?? {};
        answer.content += delta.content ?? "";
        answer.thoughts += delta.reasoning_content ?? "";
        setMessages([...asked, { ...answer }]);
        setFigures("answers");
        const { timings } = part;
        if (timings) setFigures(`${count(timings.prompt_n)} tokens read at ${Math.round(timings.prompt_per_second)}/s, ${count(timings.predicted_n)} written at ${timings.predicted_per_second.toFixed(1)}/s`);
      }
    } catch (error) {
      if (!end.signal.aborted) tell(error.message, true);
      setFigures(end.signal.aborted ? "stopped" : "failed");
    } finally {
      setRunning(null);
    }
  };
  return html`<div class="talk">
    <div class="messages" ref=${box} tabindex="0" role="log" aria-label="conversation with ${id}">
      ${messages.map((message, at) => html`<div key=${at} class=${message.role}>
        ${message.thoughts && html`<p class="dim">${message.thoughts}</p>`}<p>${message.content}</p>
      </div>`)}
    </div>
    <form onSubmit=${say}>
      <input name="text" placeholder="Say something to ${id}" aria-label="message to ${id}" autocomplete="off" />
      ${running ? html`<button type="button" onClick=${() => running.abort()}>Stop</button>` : html`<button type="submit">Send</button>`}
    </form>
    <p class="dim num" aria-live="polite">${figures}</p>
  </div>`;
}

// All of one model

export function Details({ model, names, dialog, close }) {
  const { id } = model;
  const { unload, pin } = useContext(Actions);
  const [estimate, fault] = useAnswer("models/estimate", { model: id });
  const [settings] = useAnswer(modelPath(id, "settings"), { pid: model.pid });
  const box = useRef(null);
  useEffect(() => {
    const leave = (event) => event.key === "Escape" && !event.defaultPrevented && close();
    const { current } = box;
    current.addEventListener("keydown", leave);
    return () => current.removeEventListener("keydown", leave);
  }, []);
  const held = Object.entries(model.held ?? {});
  const args = settings?.effective.args ?? [];
  return html`<tr class="details" ref=${box}><td colspan="8"><div class="grid">
    <div>
      <h3>Memory</h3>
      ${estimate && html`<${Shares} estimate=${estimate} />`}
      ${fault && html`<p class="bad">${fault}</p>`}
      <dl>
        ${held.length > 0 && html`<dt>holds now</dt><dd class="num">${held.map(([key, size]) => `${bytes(size)} on ${names.get(key) ?? key}`).join(", ")}</dd>`}
        <dt>needs by</dt><dd>${{ footprint: "what its last process took", engine: "the engine's own measure", header: "its file's header" }[model.source ?? estimate?.source] ?? ""}</dd>
        ${model.context && html`<dt>context</dt><dd class="num">${tokens(model.context)} tokens a request${model.slots ? `, ${model.slots} at once` : ""}</dd>`}
        ${estimate && html`<dt>longest context</dt><dd class="num">${count(estimate.max_context)} tokens</dd>`}
        ${model.pid && html`<dt>process</dt><dd class="num">pid ${model.pid}, since ${new Date(model.started * 1000).toLocaleTimeString("en-GB")}${model.restarts ? `, started ${model.restarts + 1} times` : ""}</dd>`}
        ${model.ttl != null && html`<dt>time to live</dt><dd>${duration(model.ttl)} without requests</dd>`}
        ${(model.aliases ?? []).length > 0 && html`<dt>also called</dt><dd>${model.aliases.join(", ")}</dd>`}
        <dt>arguments</dt><dd class="code">${args.join(" ")}</dd>
      </dl>
      <p class="buttons">
        <button onClick=${() => dialog("load", id)}>Settings...</button>
        <button aria-pressed=${!!model.pinned} onClick=${() => pin(id, !model.pinned)}>${model.pinned ? "Unpin" : "Pin"}</button>
        ${hasProcess(model) && html`<button onClick=${() => unload(id, { force: true })}>Unload at once</button>`}
        <a class="button" href=${url("", { model: id })}>Chat</a>
      </p>
    </div>
    <div><h3>Log</h3><${Log} id=${id} key=${id} /></div>
    <div><h3>Conversation</h3><${Talk} id=${id} key=${id} /></div>
  </div></td></tr>`;
}
