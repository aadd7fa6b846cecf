// The last line of `pnpm test` where the browser test could not run.
import { findChromium, NOT_RUN } from "./chromium.ts";

if (findChromium() === undefined) console.log(NOT_RUN);
