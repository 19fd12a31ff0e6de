"""Sample studies made by code and a simulated scanner. Shipped: operators rehearse with them."""
