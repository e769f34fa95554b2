// Makes elements from names, attributes and children. Strings become text nodes, so the data is
// never parsed as HTML.

function fillIn(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function html(name, attributes = {}, ...children) {
  return fillIn(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fillIn(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

// Removes the parts of the page about masks if only boxes were measured.
function keepKinds(kinds) {
  for (const element of document.querySelectorAll("[data-kind]")) {
    if (!kinds.includes(element.dataset.kind)) element.remove();
  }
}

const KIND_NAMES = { segm: "mask", bbox: "box" };
const byId = (id) => document.getElementById(id);
const integer = (value) => value.toLocaleString("en");
const fraction = (value) => (value === null ? "\u2013" : value.toFixed(3));
const share = (part, whole) => fraction(whole ? part / whole : null);
const counted = (count, noun) => `${integer(count)} ${noun}${count === 1 ? "" : "s"}`;
const sum = (values) => values.reduce((total, value) => total + value, 0);
