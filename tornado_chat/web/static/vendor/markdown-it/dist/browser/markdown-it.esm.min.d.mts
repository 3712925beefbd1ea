// What the page uses of markdown-it. For the type check only.

export interface Token {
  type: string;
  tag: string;
  nesting: number;
  level: number;
  hidden: boolean;
  content: string;
  info: string;
  markup: string;
  map: [number, number] | null;
  children: Token[] | null;
  attrGet(name: string): string | number | null;
}

interface LinkifyIt {
  set(options: { fuzzyLink: boolean }): LinkifyIt;
  add(schema: string, rule: null): LinkifyIt;
}

export default class MarkdownIt {
  constructor(preset: string, options: { html: boolean; linkify: boolean; maxNesting: number });
  options: object;
  linkify: LinkifyIt;
  utils: { unescapeAll(text: string): string };
  renderer: { renderInlineAsText(tokens: Token[], options: object, env: object): string };
  validateLink(address: string): boolean;
  normalizeLinkText(text: string): string;
  parse(source: string, env: object): Token[];
}
