/** One bar of a chart. */
export interface Bar {
  readonly label: string;
  readonly value: number;
  /** What is written at its end. */
  readonly text: string;
}

const WIDTH = 480;
const LABEL = 150;
const ROW = 24;
const BAR = 16;
const VALUE = 80;
const ESCAPES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

/** Text for HTML and SVG. */
export function escapeText(text: string): string {
  return text.replace(/[&<>"']/gu, (char) => ESCAPES[char]!);
}

/** Horizontal bars, as SVG that scales with the page. Colours come from the page's style. */
export function barChart(title: string, bars: readonly Bar[]): string {
  const most = Math.max(0, ...bars.map(({ value }) => value));
  const room = WIDTH - LABEL - VALUE;
  const rows = bars.map(({ label, value, text }, i) => {
    const y = i * ROW;
    const width = most === 0 ? 0 : Math.max(0, Math.round((room * value) / most));
    return [
      `<text x="${LABEL - 8}" y="${y + BAR - 2}" text-anchor="end">${escapeText(label)}</text>`,
      `<rect x="${LABEL}" y="${y + 2}" width="${width}" height="${BAR}" rx="2"/>`,
      `<text x="${LABEL + width + 6}" y="${y + BAR - 2}">${escapeText(text)}</text>`,
    ].join("");
  });
  const name = escapeText(title);
  return [
    `<figure><figcaption>${name}</figcaption>`,
    `<svg viewBox="0 0 ${WIDTH} ${bars.length * ROW}" role="img" aria-label="${name}">${rows.join("")}</svg></figure>`,
  ].join("\n");
}
