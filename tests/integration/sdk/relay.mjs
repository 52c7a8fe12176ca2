// An app built on @wix/sdk, as a test needs it: it signs webhooks as Wix does, has the SDK process them, and posts the signed
// token, what the SDK's handler received and what `process` resolved to, in the order that it is told.
//
// Lines on standard input: first {url, token, publicKey, privateKey}, then one {data, posts} for each webhook, where `data` is
// the text that Wix signs and `posts` the order. One line of answers for each on standard output, in any order.
import { createInterface } from "node:readline";
import * as loyaltyCoupons from "@wix/auto_sdk_loyalty_coupons";
import { AppStrategy, createClient } from "@wix/sdk";
import { renameKeysFromRESTResponseToSDKResponse } from "@wix/sdk-runtime/rename-all-nested-keys";
import { transformRESTFloatToSDKFloat } from "@wix/sdk-runtime/transformations/float";
import { transformRESTTimestampToSDKTimestamp } from "@wix/sdk-runtime/transformations/timestamp";
import { transformPaths } from "@wix/sdk-runtime/transformations/transform-paths";
import { EventDefinition } from "@wix/sdk-types";
import { importPKCS8, SignJWT } from "jose";

const AT_ONCE = 16;
const COUPON = "wix.ecommerce.coupons.v2.coupon";
const LOYALTY = "wix.loyalty.v1.coupon";
const AMOUNTS = ["moneyOffAmount", "percentOffRate", "fixedPriceAmount", "minimumSubtotal"];

// What Wix generates for an event, as in the module of the loyalty coupons: dates become Date, floats numbers, ids `_id`.
const defined = (type, entity, specification, times) =>
  EventDefinition(type, true, (event) =>
    renameKeysFromRESTResponseToSDKResponse(
      transformPaths(event, [
        {
          transformFn: transformRESTTimestampToSDKTimestamp,
          paths: [...times.map((name) => ({ path: `${entity}.${name}` })), { path: "metadata.eventTime" }],
        },
        {
          transformFn: transformRESTFloatToSDKFloat,
          paths: AMOUNTS.map((name) => ({ path: `${entity}.${specification}.${name}` })),
        },
      ]),
    ),
  )();

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const { url, token, publicKey, privateKey } = JSON.parse((await lines.next()).value);
const key = await importPKCS8(privateKey, "RS256");
const client = createClient({
  auth: AppStrategy({ appId: "app", publicKey }),
  modules: {
    // Wix's own definitions, from its package …
    loyaltyCoupons: {
      onCouponCreated: loyaltyCoupons.onCouponCreated,
      onCouponDeleted: loyaltyCoupons.onCouponDeleted,
    },
    // … and those of events that no package publishes, as Wix would generate them.
    more: {
      onCouponCreated: defined(`${COUPON}_created`, "entity", "specification", []),
      onCouponUpdated: defined(`${COUPON}_updated`, "entity", "specification", []),
      onCouponDeleted: defined(`${COUPON}_deleted`, "undefined", "specification", []),
      onCouponApplied: defined(`${COUPON}_applied`, "data.coupon", "specification", []),
      onLoyaltyCouponUpdated: defined(
        `${LOYALTY}_updated`, "entity", "couponReference.specification", ["createdDate", "updatedDate"],
      ),
      onRewardUpdated: defined("wix.loyalty.v1.reward_updated", "entity", "specification", ["createdDate"]),
    },
  },
});

const received = new Map();
const keep = (envelope) => received.set(envelope.metadata._id, envelope);
for (const module of [client.loyaltyCoupons, client.more]) {
  for (const subscribe of Object.values(module)) subscribe(keep);
}

async function post(path, body, headers) {
  const response = await fetch(url + path, { method: "POST", headers, body });
  return { status: response.status, ...(await response.json()) };
}

async function run({ data, posts }) {
  const jwt = await new SignJWT({ data }).setProtectedHeader({ alg: "RS256" }).setIssuedAt().setExpirationTime("10m").sign(key);
  const processed = await client.webhooks.process(jwt);
  const bearer = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const envelope = received.get(processed.payload.id);
  const answers = [];
  for (const what of posts) {
    if (what === "jwt") answers.push(await post("/v1/webhooks/wix", jwt, { "content-type": "text/plain" }));
    else answers.push(await post("/v1/sdk/events", JSON.stringify(what === "handler" ? envelope : processed), bearer));
  }
  return { id: processed.payload.id, jwt, envelope, answers };
}

async function work() {
  for (let next = await lines.next(); !next.done; next = await lines.next()) {
    process.stdout.write(JSON.stringify(await run(JSON.parse(next.value))) + "\n");
  }
}
await Promise.all(Array.from({ length: AT_ONCE }, work));
