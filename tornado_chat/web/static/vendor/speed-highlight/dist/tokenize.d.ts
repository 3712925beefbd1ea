// What the page uses of @speed-highlight/core. For the type check only.

export type Grammar = object;

/** Yields the name of each language that it needs. */
export function tokenizer(text: string, language: string, onToken: (text: string, type?: string) => void): Generator<string, void, Grammar | undefined>;
