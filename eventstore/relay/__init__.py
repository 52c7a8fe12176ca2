"""What a Wix site runs to send its coupon events here: `events.js`, for the site's Backend section."""
