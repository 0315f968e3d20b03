// @ts-check
/** In the head of every page: who is logged in, where the service has keys. @module */
import { send, session } from "./api.js";
import { h } from "./dom.js";

if (location.pathname !== "/login") {
  session().then(({ key, project, role }) => {
    if (!key) return;
    const leave = h("button", { type: "button", class: "plain", on: { click: async () => { await send("DELETE", "/v1/session", undefined); location.href = "/login"; } } }, "Log out");
    document.getElementById("who")?.replaceChildren(`${project}, ${role}`, leave);
  }).catch(() => {});
}
