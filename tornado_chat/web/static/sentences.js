// A text that grows as it is read aloud: by sentences, not by the pieces in which it comes.

const LONG = 400; // characters without an end of a sentence, of which as much is read as is there

const segmenter = new Intl.Segmenter(undefined, { granularity: "sentence" });

export class Sentences {
  told = 0; // characters of the text

  /**
   * What is new to be read of `text`: whole sentences and lines, or "". What was read is not read again, even where the
   * text before it looks otherwise by now.
   * @param {string} text All that is there. @param {boolean} open More is to come.
   */
  next(text, open) {
    const from = this.told;
    if (from >= text.length) return "";
    const rest = text.slice(from);
    this.told += open ? ended(rest) : rest.length;
    return text.slice(from, this.told).replace(/\s+/g, " ").trim();
  }
}

/** How much of `text` is whole: a sentence is when another has begun, a line when it has ended. @param {string} text */
function ended(text) {
  const line = text.lastIndexOf("\n") + 1;
  const last = [...segmenter.segment(text.slice(line))].at(-1);
  const whole = line + (last?.index ?? 0);
  return whole === 0 && text.length > LONG ? Math.max(0, text.lastIndexOf(" ")) || text.length : whole;
}
