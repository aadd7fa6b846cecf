// Prints every violated rule as `rule: file:line: message`; see rules.ts. Run after a build, since bundles are judged too.
import { join } from "node:path";
import { RULES } from "./rules.ts";

const findings = Object.values(RULES).flatMap((rule) => rule(join(import.meta.dirname, "../..")));
for (const { rule, file, line, message } of findings) console.error(`${rule}: ${file}:${line}: ${message}`);
if (findings.length > 0) process.exitCode = 1;
else console.log(`${Object.keys(RULES).length} rules, no finding`);
