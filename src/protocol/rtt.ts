/**
 * Round-trip estimate and the resend delay made from it: the smoothing of session-manager-plugin
 * and amazon-ssm-agent, but fed only with messages sent once (Karn's rule is the caller's part).
 */
import { INITIAL_RTO_MS, MAX_RTO_MS, MIN_RTO_MS, RTT_GRANULARITY_MS } from './constants.ts';

export class RttEstimator {
  #smoothedMs: number | undefined;
  #variationMs = 0;

  /** Undefined until the first sample. */
  get smoothedMs(): number | undefined {
    return this.#smoothedMs;
  }

  sample(roundTripMs: number): void {
    const old = this.#smoothedMs;
    if (old === undefined) {
      this.#smoothedMs = roundTripMs;
      this.#variationMs = roundTripMs / 2;
      return;
    }
    this.#variationMs = 0.75 * this.#variationMs + 0.25 * Math.abs(old - roundTripMs);
    this.#smoothedMs = 0.875 * old + 0.125 * roundTripMs;
  }

  /** How long to wait for an acknowledgement before sending again. */
  get resendAfterMs(): number {
    if (this.#smoothedMs === undefined) return INITIAL_RTO_MS;
    const estimate = this.#smoothedMs + Math.max(RTT_GRANULARITY_MS, 4 * this.#variationMs);
    return Math.min(MAX_RTO_MS, Math.max(MIN_RTO_MS, estimate));
  }
}
