"""Print the service's dashboard as Grafana wants it: python deploy/grafana/make.py > deploy/grafana/dashboards/service.json

Rows follow what one asks at night: do listeners suffer (rate, errors, duration of requests), and where (use, saturation and errors
of what requests need). The variable `route` narrows the first row to any of the routes, such as /api/recommend.
"""
import json

SOURCE = {"type": "prometheus", "uid": "prometheus"}
SHOW = 'route=~"$route"'
RATE = "[$__rate_interval]"
PANELS = [  # row, title, unit, and for each line its name and query
    ("Requests", [
        ("Requests per second", "reqps", {"{{route}}": f"sum by (route) (rate(rap_requests_total{{{SHOW}}}{RATE}))"}),
        ("Duration", "s", {f"p{q} {{{{route}}}}": f"histogram_quantile(0.{q}, sum by (route, le) "
                           f"(rate(rap_request_seconds_bucket{{{SHOW}}}{RATE})))" for q in (50, 95)}),
        ("Errors, share of requests", "percentunit", {
            "{{route}}": f'sum by (route) (rate(rap_requests_total{{{SHOW}, status=~"5.."}}{RATE}))'
                         f" / sum by (route) (rate(rap_requests_total{{{SHOW}}}{RATE}))"}),
        ("Good answers per second", "reqps", {
            "{{route}}": f'sum by (route) (rate(rap_requests_total{{{SHOW}, status=~"[23].."}}{RATE}))'}),
        ("Answers that are not good", "percentunit", {
            "{{route}}": f'sum by (route) (rate(rap_requests_total{{{SHOW}, status!~"[23].."}}{RATE}))'
                         f" / sum by (route) (rate(rap_requests_total{{{SHOW}}}{RATE}))"}),
        ("Answers by status", "reqps", {"{{status}}": f"sum by (status) (rate(rap_requests_total{{{SHOW}}}{RATE}))"}),
    ]),
    ("What requests need", [
        ("Servers that answer", "short", {"{{server}}": "min by (server) (rap_up)"}),
        ("Database connections", "short", {
            "{{state}}": "max by (state) (rap_pool_connections)", "waiting": "max(rap_pool_waiting)",
            "without one": f"sum(increase(rap_pool_errors_total{RATE}))"}),
        ("Cache, share of hits", "percentunit", {
            "hits": f'sum(rate(rap_cache_events_total{{event="hits"}}{RATE}))'
                    f' / sum(rate(rap_cache_events_total{{event=~"hits|misses"}}{RATE}))'}),
        ("Requests in progress", "short", {"now": "sum(rap_requests_in_progress)"}),
    ]),
    ("Work that was accepted", [
        ("Jobs by state", "short", {"{{queue}} {{state}}": 'max by (queue, state) (rap_jobs{state!="done"})'}),
        ("Oldest job that is due", "s", {"{{queue}}": "max by (queue) (rap_queue_age_seconds)"}),
        ("Attempts per minute", "cpm", {
            "{{kind}} {{outcome}}": f"60 * sum by (kind, outcome) (rate(rap_job_attempts_total{RATE}))"}),
        ("Wait and work, p95", "s", {
            "{{queue}} waits": f"histogram_quantile(0.95, sum by (queue, le) (rate(rap_job_wait_seconds_bucket{RATE})))",
            "{{kind}} works": f"histogram_quantile(0.95, sum by (kind, le) (rate(rap_job_seconds_bucket{RATE})))"}),
        ("Workers and restarts", "short", {"{{worker}}": "sum by (worker) (rap_workers)",
                                           "restarts of {{child}}": f"sum by (child) (increase(rap_restarts_total{RATE}))"}),
    ]),
    ("What listeners do", [
        ("Saves in the last 24 hours", "short", {"saves": "sum(increase(track_saved_total[1d]))"}),
        ("Events per minute", "cpm", {"{{action}}": f"60 * sum by (action) (rate(rap_events_total{RATE}))"}),
        ("Variants, share of failed requests", "percentunit", {
            "{{flag}} {{variant}}": f'sum by (flag, variant) (rate(rap_variant_requests_total{{status=~"5.."}}{RATE}))'
                                    f" / sum by (flag, variant) (rate(rap_variant_requests_total{RATE}))"}),
        ("Variants, p95", "s", {"{{flag}} {{variant}}": "histogram_quantile(0.95, sum by (flag, variant, le) "
                                                        f"(rate(rap_variant_seconds_bucket{RATE})))",
                                "rules in force": "min(rap_flag_rules_ok)"}),
    ]),
]


def panel(n: int, title: str, unit: str, lines: dict[str, str], x: int, y: int) -> dict:
    "One plot, a quarter of the width."
    targets = [{"refId": chr(65 + i), "datasource": SOURCE, "expr": query, "legendFormat": name}
               for i, (name, query) in enumerate(lines.items())]
    return {"id": n, "type": "timeseries", "title": title, "datasource": SOURCE, "targets": targets,
            "gridPos": {"x": x, "y": y, "w": 6, "h": 8},
            "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"lineWidth": 2, "spanNulls": False}}, "overrides": []},
            "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}}


def dashboard() -> dict:
    "The whole dashboard."
    panels, n, y = [], 0, 0
    for row, plots in PANELS:
        panels.append({"id": (n := n + 1), "type": "row", "title": row, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        for i, (title, unit, lines) in enumerate(plots):
            panels.append(panel(n := n + 1, title, unit, lines, 6 * (i % 4), y + 1 + 8 * (i // 4)))
        y += 1 + 8 * (1 + (len(plots) - 1) // 4)
    route = {"name": "route", "label": "Route", "type": "query", "datasource": SOURCE, "refresh": 2, "sort": 1, "multi": True,
             "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
             "query": {"query": "label_values(rap_requests_total, route)", "refId": "routes"}}
    return {"uid": "rap-service", "title": "Rap analyzer: service", "tags": ["rap-analyzer"], "schemaVersion": 39,
            "editable": False, "refresh": "10s", "time": {"from": "now-1h", "to": "now"}, "timezone": "utc",
            "templating": {"list": [route]}, "panels": panels}


if __name__ == "__main__": print(json.dumps(dashboard(), indent=1))
