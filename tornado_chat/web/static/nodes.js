// Trees as the page's nodes, and from one tree to the next with as few changes as there are: a node stays where it can.

import { CodeBlock } from "./code.js";

/** @import { Tree } from "./markdown.js" */

/** What shows a tree; `block` shows a block of code. @typedef {{ tree: Tree, node: ChildNode, inside: Shown[], block: CodeBlock | null }} Shown */

/** @param {Tree} tree @returns {Shown} */
function made(tree) {
  if (tree.tag === "") return { tree, node: document.createTextNode(tree.text), inside: [], block: null };
  if (tree.code) {
    const block = new CodeBlock(tree.code);
    return { tree, node: block.element, inside: [], block };
  }
  const node = document.createElement(tree.tag);
  for (const [name, value] of Object.entries(tree.attrs)) node.setAttribute(name, value);
  const inside = tree.children.map(made);
  node.append(...inside.map((child) => child.node));
  return { tree, node, inside, block: null };
}

/**
 * Show `trees` in `parent` before `end`, from what is shown there.
 * @param {Shown[]} shown @param {Tree[]} trees @param {Node} parent @param {Node | null} end @returns {Shown[]}
 */
export function patched(shown, trees, parent, end) {
  const now = trees.map((tree, at) => {
    const old = shown[at];
    if (!old) {
      const fresh = made(tree);
      parent.insertBefore(fresh.node, end);
      return fresh;
    }
    if (old.tree === tree || changed(old, tree)) return old;
    const fresh = made(tree);
    old.node.replaceWith(fresh.node);
    return fresh;
  });
  for (const { node } of shown.slice(trees.length)) node.remove();
  return now;
}

/** Whether what shows another tree could be made to show `tree`. @param {Shown} shown @param {Tree} tree */
function changed(shown, tree) {
  const { node, block } = shown;
  const old = shown.tree;
  if (old.tag !== tree.tag) return false;
  if (tree.code) {
    if (!block?.takes(tree.code)) return false;
    block.show(tree.code);
  } else if (node instanceof Text) {
    if (tree.text.startsWith(node.data)) node.appendData(tree.text.slice(node.data.length)); // what is selected stays so
    else node.data = tree.text;
  } else if (node instanceof Element) {
    for (const name of Object.keys(old.attrs)) if (!(name in tree.attrs)) node.removeAttribute(name);
    for (const [name, value] of Object.entries(tree.attrs)) if (old.attrs[name] !== value) node.setAttribute(name, value);
    shown.inside = patched(shown.inside, tree.children, node, null);
  }
  shown.tree = tree;
  return true;
}
