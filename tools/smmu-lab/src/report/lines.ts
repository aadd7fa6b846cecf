/** Columns of text that a report may take. */
export const WIDTH = 80;
const LABEL = 10;

export const count = (value: number): string => value.toLocaleString("en-US");

/** `text` broken at spaces, or anywhere where a word is longer than a line, with `first` before it and blanks below that. */
export function wrap(first: string, text: string): string[] {
  const room = WIDTH - first.length;
  const words = text.split(" ").flatMap((word) => word.match(new RegExp(`.{1,${room}}`, "gu")) ?? []);
  const lines: string[] = [];
  for (const word of words) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= room) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  if (lines.length === 0) lines.push("");
  return lines.map((line, i) => ((i === 0 ? first : " ".repeat(first.length)) + line).trimEnd());
}

/** A labelled fact, broken into lines. */
export function fact(label: string, text: string): string[] {
  return wrap(label.padEnd(LABEL), text);
}
