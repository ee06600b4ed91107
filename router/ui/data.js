// What the page knows of the router: one stream of changes, applied to one state; and the requests that the page makes.
//
// The key is asked for once, kept for this tab, and sent as a header. It is never part of an address.

const BASE = new URL(".", location.href); // the router's root, below its --api-prefix if it has one
const KEY = "llama-router-key";
const KEPT_EVENTS = 400;
const KEPT_REQUESTS = 200;
const KEPT_SECONDS = 120; // of the line of tokens per second
const SILENCE_MS = 20000; // the stream says something more often than this

export class NeedsKey extends Error {}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function url(path, query = {}) {
  const found = new URL(path.replace(/^\//, ""), BASE);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") found.searchParams.set(name, value);
  }
  return found;
}

export const modelPath = (id, rest) => `models/${id.split("/").map(encodeURIComponent).join("/")}/${rest}`;

export const setKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));
export const hasKey = () => !!sessionStorage.getItem(KEY);

// One request. `body` is sent as JSON. Returns the Response; an error of the router is thrown in its own words.
export async function send(method, path, { query, body, signal } = {}) {
  const headers = { Accept: "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(url(path, query), {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    referrerPolicy: "same-origin", // over http nothing else tells the router that this page asks, and not a foreign one
  });
  if (response.ok) return response;
  const message = await response
    .json()
    .then((answer) => answer.error?.message ?? answer.error)
    .catch(() => null);
  const text = typeof message === "string" ? message : `The router answered ${response.status}.`;
  throw response.status === 401 ? new NeedsKey(text) : new Refused(response.status, text);
}

export const ask = async (method, path, options) => (await send(method, path, options)).json();

// The lines of a stream, as they come.
export async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const part of parts) yield part.replace(/\r$/, "");
    }
    if (rest) yield rest;
  } finally {
    reader.cancel().catch(() => {});
  }
}

// The events of a server-sent stream: {event, data}.
export async function* events(response) {
  let event = "message";
  let data = [];
  for await (const line of lines(response)) {
    if (line === "") {
      if (data.length) yield { event, data: data.join("\n") };
      event = "message";
      data = [];
    } else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
    else if (line.startsWith("event:")) event = line.slice(6).trim();
    else yield { event: "comment", data: line }; // a sign of life
  }
}

export const EMPTY = {
  isLive: false,
  models: [],
  devices: [],
  queue: [],
  events: [],
  requests: [],
  totals: {},
  limits: {},
  engine: {},
  rates: [],
  offset: 0, // of the router's clock, in seconds
};

// Durations in an entry run on from the moment at which it was received.
const received = (entry) => ({ ...entry, got: Date.now() / 1000 });

function merged(before, changes, key) {
  const byKey = new Map(changes.map((entry) => [entry[key], received(entry)]));
  const kept = before.map((entry) => {
    const change = byKey.get(entry[key]);
    byKey.delete(entry[key]);
    return change ?? entry;
  });
  return byKey.size ? [...kept, ...byKey.values()] : kept;
}

function withEvents(before, news) {
  const last = before.length ? before[0].seq : 0;
  const fresh = news.filter((event) => event.seq > last).sort((a, b) => b.seq - a.seq);
  return fresh.length ? [...fresh, ...before].slice(0, KEPT_EVENTS) : before;
}

const PHASES = ["reading", "waiting", "prompt", "answering"]; // of a request that runs
export const isRunning = (request) => PHASES.includes(request.phase);

function withRequests(before, news) {
  const byId = new Map(before.map((request) => [request.id, request]));
  for (const request of news) {
    if (request.gone) byId.delete(request.id);
    else byId.set(request.id, received(request));
  }
  return [...byId.values()]
    .sort((a, b) => isRunning(b) - isRunning(a) || b.at - a.at)
    .slice(0, KEPT_REQUESTS);
}

// What a message of the stream makes of the state. Entries that did not change stay the same objects.
// `isFirst`: it is the first one of a connection.
export function applied(state, { event, data, isFirst }) {
  const at = Date.now() / 1000;
  if (event === "state") {
    const next = { ...EMPTY, ...data, isLive: true, rates: state.rates, offset: data.now - at };
    next.models = data.models.map(received);
    next.devices = data.devices.map(received);
    next.queue = data.queue.map(received);
    // After a restart the router counts its events anew. What ran by what was known has ended by now, or comes again.
    const isSame = state.seq !== undefined && data.seq >= state.seq;
    next.events = isSame ? state.events : [];
    next.requests = isSame ? state.requests.filter((request) => !isFirst || !isRunning(request)) : [];
    return withRate(next, at);
  }
  const next = { ...state };
  if (data.seq !== undefined) next.seq = data.seq;
  if (data.now !== undefined) next.offset = data.now - at;
  if (data.model) next.models = merged(state.models, data.model, "id");
  if (data.device) next.devices = merged(state.devices, data.device, "key");
  if (data.queue) next.queue = data.queue.map(received);
  if (data.event) next.events = withEvents(state.events, data.event);
  if (data.request) next.requests = withRequests(state.requests, data.request);
  if (data.totals) next.totals = data.totals;
  return withRate(next, at);
}

// One figure each second, for the line of tokens per second.
function withRate(state, at) {
  const rate = state.totals.tokens_per_second ?? 0;
  const second = Math.floor(at);
  const last = state.rates[state.rates.length - 1];
  if (last && last[0] === second) return state;
  return { ...state, rates: [...state.rates, [second, rate]].filter(([s]) => s > second - KEPT_SECONDS) };
}

// Follow the router until `signal` ends that. `update` gets functions from the state before to the one after.
// `needsKey` waits for a key. It connects again by itself.
export async function follow(update, needsKey, signal) {
  let pause = 250;
  let seen = 0; // the last event that is known
  while (!signal.aborted) {
    const connection = new AbortController();
    const end = () => connection.abort();
    signal.addEventListener("abort", end);
    let watchdog = setTimeout(end, SILENCE_MS);
    try {
      const response = await send("GET", "router/stream", { query: { since: seen }, signal: connection.signal });
      pause = 250;
      let isFirst = true;
      for await (const message of events(response)) {
        clearTimeout(watchdog);
        watchdog = setTimeout(end, SILENCE_MS);
        if (message.event === "comment") continue;
        if (message.event === "end") break;
        const data = JSON.parse(message.data);
        if (message.event === "patch") seen = data.seq;
        const news = { event: message.event, data, isFirst };
        isFirst = false;
        update((state) => applied(state, news));
      }
    } catch (error) {
      if (error instanceof NeedsKey) {
        clearTimeout(watchdog);
        update((state) => ({ ...state, isLive: false }));
        await needsKey(error.message);
        continue;
      }
    } finally {
      clearTimeout(watchdog);
      signal.removeEventListener("abort", end);
      connection.abort();
    }
    update((state) => ({ ...state, isLive: false }));
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, 3000);
  }
}
