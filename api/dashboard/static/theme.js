// @ts-check
// Light or dark, as chosen here before; otherwise as the system has it. Runs before the page is painted.
{
  const kept = localStorage.getItem("theme");
  if (kept) document.documentElement.dataset.theme = kept;
  const isDark = () =>
    (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  addEventListener("DOMContentLoaded", () => {
    const button = /** @type {HTMLElement} */ (document.getElementById("theme"));
    const show = () => { button.textContent = isDark() ? "Light" : "Dark"; };
    button.addEventListener("click", () => {
      const theme = isDark() ? "light" : "dark";
      document.documentElement.dataset.theme = theme;
      localStorage.setItem("theme", theme);
      show();
      dispatchEvent(new Event("themechange"));
    });
    show();
    const part = location.pathname.startsWith("/samplings") || location.pathname.startsWith("/decisions") ? "samplings" : "studies";
    document.querySelector(`[data-part=${part}]`)?.setAttribute("aria-current", "page");
  });
}
