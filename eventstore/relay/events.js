/*
 * Sends every coupon event of this Wix site to your coupon event store.
 *
 * 1. In the site's dashboard, under Developer Tools > Secrets Manager, store two secrets:
 *      EVENTSTORE_URL     the store's address, for example https://coupons.example.com
 *      EVENTSTORE_TOKEN   a token of the store that may ingest for this site
 * 2. In the editor's code panel, under Backend, paste this file as events.js. If the site has an events.js already,
 *    add this text to it; where it has one of the handlers below, call forward(...) in yours instead.
 * 3. Publish the site (events do not run in preview), make a coupon, and look for it in the store.
 *
 * Failures show in the site's logs (Developer Tools > Logging Tools), with the handler's name and the event's id.
 */
import { elevate } from "wix-auth";
import { fetch } from "wix-fetch";
import { secrets } from "wix-secrets-backend.v2";

const BUDGET_MS = 12000; // Wix stops backend code after 14 seconds; the rest is for reading the secrets.
const ATTEMPTS = 4;
const ATTEMPT_MS = 3500;
const LEAST_ATTEMPT_MS = 500; // With less time than this left, another attempt could not succeed.
const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 2000;

// An event's handler runs with no one's permissions, and reading a secret needs the site's.
const readSecret = elevate(secrets.getSecretValue);

export function wixMarketing_onCouponCreated(event) {
  return forward("wixMarketing_onCouponCreated", event);
}

export function wixMarketing_onCouponUpdated(event) {
  return forward("wixMarketing_onCouponUpdated", event);
}

export function wixMarketing_onCouponDeleted(event) {
  return forward("wixMarketing_onCouponDeleted", event);
}

export function wixMarketing_onCouponApplied(event) {
  return forward("wixMarketing_onCouponApplied", event);
}

export function wixLoyalty_onCouponCreated(event) {
  return forward("wixLoyalty_onCouponCreated", event);
}

export function wixLoyalty_onCouponDeleted(event) {
  return forward("wixLoyalty_onCouponDeleted", event);
}

async function forward(handler, event) {
  const metadata = event.metadata || {};
  const eventId = metadata.id || metadata._id || "no id";
  try {
    const answer = await send(handler, JSON.stringify(event));
    if (answer.outcome === "quarantined" || answer.outcome === "conflict") {
      console.warn(`${handler} ${eventId}: the event store kept this event aside (${answer.outcome})`);
    }
  } catch (error) {
    console.error(`${handler} ${eventId}: not sent to the event store: ${error.message}`);
    throw error;
  }
}

// Sending an event twice is harmless: the store knows it by its id.
async function send(handler, body) {
  const deadline = Date.now() + BUDGET_MS;
  const [url, token] = await Promise.all(["EVENTSTORE_URL", "EVENTSTORE_TOKEN"].map(secret));
  const target = `${url.replace(/\/+$/, "")}/v1/velo/${handler}`;
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${token}` };
  for (let attempt = 1; ; attempt++) {
    const limit = Math.min(ATTEMPT_MS, deadline - Date.now());
    const result = await within(limit, post(target, { method: "POST", headers, body })).catch((error) => ({
      failure: error.message,
      again: true,
    }));
    if (!result.failure) {
      return result.answer;
    }
    const pause = Math.min(LONGEST_PAUSE_MS, result.pause || FIRST_PAUSE_MS * 2 ** (attempt - 1));
    if (!result.again || attempt === ATTEMPTS || Date.now() + pause + LEAST_ATTEMPT_MS > deadline) {
      throw new Error(`${result.failure} (attempt ${attempt})`);
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

async function post(target, request) {
  const response = await fetch(target, request);
  if (response.ok) {
    return { answer: (await response.json().catch(() => null)) || {} };
  }
  const again = response.status === 429 || response.status >= 500;
  return { failure: `HTTP ${response.status}`, again, pause: retryAfter(response.headers.get("Retry-After")) };
}

async function secret(name) {
  const { value } = await readSecret(name);
  return value.trim();
}

// Milliseconds, from seconds or from a date; 0 when the store named no time.
function retryAfter(text) {
  const milliseconds = Number(text) * 1000 || Date.parse(text) - Date.now();
  return milliseconds > 0 ? milliseconds : 0;
}

function within(milliseconds, promise) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer in ${milliseconds} ms`)), milliseconds);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}
