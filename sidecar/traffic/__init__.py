"""How the requests of a service are spread: what people order, and what watches over it."""
