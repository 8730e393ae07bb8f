// Tags, properties and children in; elements of the page out, and small ways to change them no more than needed.

const SVG = "http://www.w3.org/2000/svg";

/** An element; keys that hold a `-` are attributes, others properties. Strings among the children are text, null is left out. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role" || key === "for") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** An SVG element with these attributes. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Sets the text where it is another. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setClass(element, name) {
  if (element.className !== name) element.className = name;
}

/** Makes the children those that `keys` name, in this order: made by `create` where they are new, moved only where they must be. */
export function arrange(parent, held, keys, create, drop = () => {}) {
  for (const [key, one] of held) {
    if (keys.includes(key)) continue;
    held.delete(key);
    drop(one);
    one.root.remove();
  }
  keys.forEach((key, i) => {
    if (!held.has(key)) held.set(key, create(key));
    const { root } = held.get(key);
    if (parent.children[i] !== root) move(parent, root, parent.children[i] ?? null);
  });
}

// An element that is moved loses the focus.
function move(parent, root, before) {
  const focused = root.contains(document.activeElement) ? document.activeElement : null;
  parent.insertBefore(root, before);
  focused?.focus();
}
