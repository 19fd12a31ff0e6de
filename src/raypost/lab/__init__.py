"""Sample studies, demo network, fault injection. Shipped: operators rehearse with it."""
