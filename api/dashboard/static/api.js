// @ts-check
/** Talking to the service. @module */

/** What the service answers when something is wrong. */
export class Problem extends Error {
  /** @param {number} status @param {any} body */
  constructor(status, body) {
    super(body?.detail ?? `the service answered ${status}`);
    this.status = status;
    /** @type {{field: string, expected: string}[]} */
    this.errors = body?.errors ?? [];
  }
}

/** @param {string} path @param {Record<string, any>} [query] @returns {Promise<any>} */
export function get(path, query = {}) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one !== undefined && one !== null && one !== "") parameters.append(name, one);
  }
  return call("GET", parameters.size ? `${path}?${parameters}` : path);
}

/** @param {string} method @param {string} path @param {any} body @returns {Promise<any>} */
export async function send(method, path, body) {
  const { csrf } = await session();
  return call(method, path, body, csrf ? { "X-Suffice-CSRF": csrf } : {});
}

/** @type {Promise<any> | null} */
let caller = null;

/** Who is calling, asked once. Without keys: no key, and whatever a page does is allowed. */
export const session = () => (caller ??= call("GET", "/v1/session"));

/** @param {string} method @param {string} path @param {any} [body] @param {Record<string, string>} [headers] @returns {Promise<any>} */
export async function call(method, path, body, headers = {}) {
  const content_ = body === undefined ? { headers } : { headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, { method, ...content_ });
  } catch {
    throw new Problem(0, { detail: "The service cannot be reached." });
  }
  if (answer.status === 401 && location.pathname !== "/login") location.href = `/login?next=${encodeURIComponent(location.pathname)}`;
  const content = answer.headers.get("Content-Type") ?? "";
  const found = answer.status !== 204 && content.includes("json") ? await answer.json() : null;
  if (!answer.ok) throw new Problem(answer.status, found);
  return found;
}

/** The address of a study in the interface, of which a page is part. @param {string} name @param {string} [of] */
export const studyPath = (name, of = "/v1") => `${of}/studies/${encodeURIComponent(name)}`;

/** The parts of this page's address. */
export const place = () => location.pathname.split("/").filter(Boolean).map(decodeURIComponent);

/**
 * Follow a study while the page can be seen: browsers allow few connections, and a hidden page needs none.
 * @param {string} name @param {number} after the newest event that is known
 * @param {(event: string, data: any) => void} onEvent @param {(live: boolean) => void} onState
 */
export function follow(name, after, onEvent, onState) {
  /** @type {EventSource | null} */
  let source = null;
  let last = after;
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource(`${studyPath(name)}/events?after=${last}`);
    source.onopen = () => onState(true);
    source.onerror = () => onState(false);
    for (const kind of ["study", "trial", "suggestions"]) {
      source.addEventListener(kind, (event) => {
        last = Math.max(last, Number(event.lastEventId) || 0);
        onEvent(kind, JSON.parse(event.data));
      });
    }
  };
  const close = () => { source?.close(); source = null; onState(false); };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  open();
}

/**
 * `work` at once when called, but never more often than every so many milliseconds, and never twice at a time.
 * @param {() => Promise<any>} work @param {number} pause
 */
export function paced(work, pause) {
  let waiting = false;
  let busy = false;
  let free = 0;
  const run = async () => {
    waiting = false;
    busy = true;
    try { await work(); } finally {
      busy = false;
      free = Date.now() + pause;
      if (again) { again = false; call(); }
    }
  };
  let again = false;
  const call = () => {
    if (busy) again = true;
    else if (!waiting) { waiting = true; setTimeout(run, Math.max(0, free - Date.now())); }
  };
  return call;
}

/** Once an element can be seen (or nearly). @param {Element} element @param {() => void} then */
export function whenSeen(element, then) {
  const observer = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) { observer.disconnect(); then(); }
  }, { rootMargin: "200px" });
  observer.observe(element);
}
