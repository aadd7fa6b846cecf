// Preloaded into the command by a test: an SMMU that terminates every transaction.
import { TRANSLATION } from "@smmuv3/platform";
import { SmmuV3 } from "@smmuv3/smmu-v3-model";

SmmuV3.prototype.translate = () => TRANSLATION.abort;
