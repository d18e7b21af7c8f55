type Class<E> = abstract new () => E

/** The element with this id; index.html is the only place that makes them. */
export function byId(id: string): HTMLElement
export function byId<E extends Element>(id: string, type: Class<E>): E
export function byId(id: string, type: Class<Element> = HTMLElement): Element {
  return expect(document.getElementById(id), `#${id}`, type)
}

/** The first match below `root`. */
export function part(root: ParentNode, selector: string): HTMLElement
export function part<E extends Element>(root: ParentNode, selector: string, type: Class<E>): E
export function part(
  root: ParentNode,
  selector: string,
  type: Class<Element> = HTMLElement,
): Element {
  return expect(root.querySelector(selector), selector, type)
}

/** The elements directly below `parent`. */
export function children(parent: Element): HTMLElement[] {
  return Array.from(parent.children).filter((child) => child instanceof HTMLElement)
}

/** A fresh copy of `<template id="template-…">`. */
export function stamp(name: string): HTMLElement {
  const { content } = byId(`template-${name}`, HTMLTemplateElement)
  return part(document.importNode(content, true), '*')
}

/** Says something to people who listen to the page instead of looking at it. */
export function announce(text: string): void {
  byId('announcer').textContent = text
}

function expect<E extends Element>(found: Element | null, name: string, type: Class<E>): E {
  if (found instanceof type) return found
  throw new Error(`index.html has no ${name} of the right kind`)
}
