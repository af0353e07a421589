// Updates a part of the page to match another, without touching equal nodes, so that focus and selection stay.

/** @param {Element} old in the page @param {Element} wanted not in it */
export function morph(old, wanted) {
  for (const name of old.getAttributeNames()) if (!wanted.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of wanted.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const keyed = new Map();
  for (const child of old.children) if (child.dataset.key) keyed.set(child.dataset.key, child);
  const kept = new Set([...wanted.children].map((child) => child.dataset.key));
  let place = old.firstChild;
  for (const child of [...wanted.childNodes]) {
    // Remove nodes that are gone first, so that the nodes after them need not move.
    while (place && isKeyed(place) && !kept.has(place.dataset.key)) place = removed(place);
    const same = isKeyed(child) ? keyed.get(child.dataset.key) : place && alike(place, child) ? place : null;
    if (!same) {
      old.insertBefore(document.importNode(child, true), place);
      continue;
    }
    if (same === place) place = place.nextSibling;
    else old.insertBefore(same, place);
    if (same.nodeType === Node.ELEMENT_NODE) morph(same, child);
    else if (same.data !== child.data) same.data = child.data;
  }
  while (place) place = removed(place);
}

const isKeyed = (node) => node.nodeType === Node.ELEMENT_NODE && Boolean(node.dataset.key);

/** Returns whether one node can become the other: keyed elements keep their identity. */
const alike = (a, b) => a.nodeName === b.nodeName && !isKeyed(a) && a.id === b.id;

function removed(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}
