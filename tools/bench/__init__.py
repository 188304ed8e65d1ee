"""How fast and how right the project is: each module measures one thing."""
