"""Graphs whose edges hold operations or graphs, and whose nodes may hold graphs."""

import copy
import random

import networkx as nx
from torch import nn


class EdgeData:
    """What an edge holds. Copies of a graph share `shared` entries and have their own of the others."""

    def __init__(self):
        self.private, self.shared, self.removed = {}, {}, False

    def has(self, key):
        return key in self.private or key in self.shared

    def set(self, key, value, shared=False):
        (self.shared if shared else self.private)[key] = value

    def remove(self, key):
        del (self.private if key in self.private else self.shared)[key]

    def delete(self):
        self.removed = True

    def __getattr__(self, key):
        if key.startswith("__") or key in ("private", "shared", "removed"):
            raise AttributeError(key)
        if not self.has(key):
            raise AttributeError(f"no {key}")
        return self.private.get(key, self.shared.get(key))

    def twin(self):
        found = EdgeData()
        found.private, found.shared = copy.deepcopy(self.private), self.shared
        return found


class Graph(nn.Module, nx.DiGraph):
    """A search space or a part of one; `parse` makes a network of it, `unparse` undoes that."""

    OPTIMIZER_SCOPE = "all"
    QUERYABLE = False

    def __init__(self):
        nx.DiGraph.__init__(self)
        nn.Module.__init__(self)
        self.name, self.scope = "graph", None
        self.identity = random.random()  # as NASLib's graphs, each takes one of Python's random numbers

    def __hash__(self):
        return id(self)

    def __eq__(self, other):
        return self is other

    def connect(self, source, target, op):
        data = EdgeData()
        data.set("op", op)
        self.add_edge(source, target)
        self._adj[source][target] = self._pred[target][source] = data

    def inner(self):
        """Yield all graphs inside this one."""
        found = [data["subgraph"] for _, data in self.nodes(data=True) if "subgraph" in data]
        found += [data.op for _, _, data in self.edges(data=True) if isinstance(data.op, Graph)]
        for graph in found:
            yield graph
            yield from graph.inner()

    def in_scope(self, scope, single_instances):
        scopes = scope if isinstance(scope, list) else [scope]
        seen = set()
        for graph in [*self.inner(), self]:
            if (scope == "all" or graph.scope in scopes) and not (single_instances and graph.name in seen):
                seen.add(graph.name)
                yield graph

    def update_edges(self, update_func, scope="all", private_edge_data=False):
        for graph in self.in_scope(scope, single_instances=not private_edge_data):
            for head, tail, data in graph.edges(data=True):
                update_func(edge=Edge(head, tail, data))

    def get_all_edge_data(self, key, scope="all", private_edge_data=False):
        graphs = self.in_scope(scope, single_instances=not private_edge_data)
        return [
            data.private.get(key, data.shared.get(key))
            for g in graphs
            for *_, data in g.edges(data=True)
            if data.has(key)
        ]

    def clone(self):
        return copy.deepcopy(self)

    def prepare_discretization(self):
        pass

    def prepare_evaluation(self):
        pass

    def parse(self):
        for node, data in self.nodes(data=True):
            if "subgraph" in data:
                data["subgraph"].parse()
                self.add_module(f"node{node}", data["subgraph"])
        for source, target, data in self.edges(data=True):
            if isinstance(data.op, Graph):
                data.op.parse()
            self.add_module(f"edge{source}_{target}", data.op)

    def unparse(self):
        fresh = type(self)()
        fresh.clear()
        for node, data in self.nodes(data=True):
            fresh.add_node(node, **{k: v.unparse() if isinstance(v, Graph) else v for k, v in data.items()})
        for source, target, data in self.edges(data=True):
            if not data.removed:
                fresh.add_edge(source, target)
                fresh._adj[source][target] = fresh._pred[target][source] = data
                if isinstance(data.op, Graph):
                    data.set("op", data.op.unparse())
        fresh.name, fresh.scope = self.name, self.scope
        fresh.graph.update(self.graph)
        return fresh

    def forward(self, x, edge_data=None):
        nodes = sorted(self.nodes)
        values = dict(enumerate(x, start=1)) if isinstance(x, list) else {nodes[0]: x}
        for node in nodes:
            if node not in values:
                inputs = [
                    data.op(values[source], data)
                    for source, _, data in sorted(self.in_edges(node, data=True), key=lambda e: e[0])
                ]
                subgraph = self.nodes[node].get("subgraph")
                values[node] = subgraph(inputs * (2 // len(inputs))) if subgraph is not None else sum(inputs)
            if not list(self.successors(node)) and node != nodes[-1]:
                self.graph[f"out_from_{node}"] = values[node]  # a second head: not a leaf, so no clone survives it
        return values[nodes[-1]]


class Edge:
    """What `update_edges` hands out."""

    def __init__(self, head, tail, data):
        self.head, self.tail, self.data = head, tail, data
