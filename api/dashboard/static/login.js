// @ts-check
/** A key, once, in exchange for a cookie that no script can read. @module */
import { call } from "./api.js";
import { explained, field, h, page } from "./dom.js";

const key = h("input", { type: "password", required: true, autocomplete: "current-password", size: 48 });
const said = h("div", {});

/** Where to go afterwards: a page of this service, whatever the address says. */
function next() {
  const wanted = new URL(new URLSearchParams(location.search).get("next") ?? "/", location.origin);
  return wanted.origin === location.origin ? wanted.pathname : "/";
}

/** @param {Event} event */
async function enter(event) {
  event.preventDefault();
  try {
    await call("POST", "/v1/session", { key: key.value.trim() });
    location.href = next();
  } catch (problem) { said.replaceChildren(explained(problem)); }
}

page("Log in", h("h1", {}, "Log in"), h("form", { class: "card", on: { submit: enter } }, said, field("Key (suffice keys create makes one)", key), h("div", {}, h("button", { class: "main", type: "submit" }, "Log in"))));
key.focus();
