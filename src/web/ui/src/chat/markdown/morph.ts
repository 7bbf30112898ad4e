// Turns one tree of nodes into another with as few changes as there can be: what stays the same stays the same node,
// so a selection survives, nothing flickers, and a screen reader hears only what is new.

export function morph(target: Node, wanted: Node): void {
  let old = target.firstChild;
  let next = wanted.firstChild;
  while (next !== null) {
    const following = next.nextSibling;
    if (old === null) {
      target.appendChild(next);
    } else {
      const after: ChildNode | null = old.nextSibling;
      update(old, next);
      old = after;
    }
    next = following;
  }
  while (old !== null) {
    const after: ChildNode | null = old.nextSibling;
    old.remove();
    old = after;
  }
}

function update(old: ChildNode, next: ChildNode): void {
  if (old.isEqualNode(next)) return;
  if (old instanceof Text && next instanceof Text) {
    // Text that only grows is added to: a selection in it stays.
    if (next.data.startsWith(old.data)) old.appendData(next.data.slice(old.data.length));
    else old.data = next.data;
  } else if (old instanceof Element && next instanceof Element && old.nodeName === next.nodeName) {
    for (const { name } of [...old.attributes]) if (!next.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    morph(old, next);
  } else {
    old.replaceWith(next);
  }
}
