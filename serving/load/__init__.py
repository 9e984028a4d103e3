"""Load on a gateway: uploads sent at planned instants, whatever the answers do, and what came of them."""
