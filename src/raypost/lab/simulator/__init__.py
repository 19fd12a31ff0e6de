"""A whole network from one seed: sites, centres and relays in one thread with virtual time.

The state machines are the very ones in production (`raypost.transfer`); only the rows are plain Python here, and the
mails, relays, links, clocks and people are played.
"""
