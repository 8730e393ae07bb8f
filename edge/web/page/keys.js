// Keys that are pressed in; what they do to the page out.

const VIEWS = { w: "#/", h: "#/history", s: "#/health" };

/** `page` is asked for its view, desk and settings when a key is pressed. */
export function listen(page) {
  const help = document.getElementById("help");
  document.getElementById("help-open").onclick = () => help.showModal();
  document.getElementById("help-close").onclick = () => help.close();
  document.querySelector(".skip").onclick = (event) => {
    event.preventDefault();
    page.place.focus();
  };
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || help.open || isTyping(event.target)) return;
    if (press(page, event, help)) event.preventDefault();
  });
}

function press(page, event, help) {
  if (page.view.key?.(event)) return true;
  if (event.key === "Escape" && location.hash.length > 2) return go("#/");
  if (!page.settings.get("keys")) return false;
  if (event.key === "?") return help.showModal() ?? true;
  if (event.key.toLowerCase() === "a" && page.view.alert) return page.desk.acknowledge(page.view.alert()) ?? true;
  const address = VIEWS[event.key.toLowerCase()];
  return address ? go(address) : false;
}

function go(address) {
  location.hash = address;
  return true;
}

function isTyping(element) {
  return element.matches("input:not([type=checkbox]), select, textarea, canvas");
}
