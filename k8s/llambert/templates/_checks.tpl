{{/* What a schema can't say: combinations of values that can't work. Each message names the keys. */}}
{{- define "llambert.checks" -}}
{{- $values := .Values -}}
{{- if and .Values.autoscaling.hpa.enabled .Values.autoscaling.keda.enabled -}}
{{- fail "autoscaling.hpa.enabled and autoscaling.keda.enabled exclude each other: both would set the replicas. Switch one off" -}}
{{- end -}}
{{- if and (include "llambert.autoscaled" .) (gt (int64 .Values.autoscaling.minReplicas) (int64 .Values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas" -}}
{{- end -}}
{{- include "llambert.checks.model" (list . "model" .Values.model) -}}
{{- if .Values.canary.enabled -}}
{{- include "llambert.checks.model" (list . "canary.model" (include "llambert.over" (list .Values.model .Values.canary.model) | fromYaml)) -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.canaryAnnotations) -}}
{{- fail "ingress.canaryAnnotations is empty: with canary.enabled the canary's Ingress would take the stable one's traffic. Name your controller's annotations" -}}
{{- end -}}
{{- end -}}
{{- with .Values.bulk -}}
{{- if .enabled -}}
{{- $model := include "llambert.over" (list $values.model .model) | fromYaml -}}
{{- include "llambert.checks.model" (list $ "bulk.model" (set $model "pollSeconds" 0)) -}}{{/* workers fetch */}}
{{- if not (and .input .output) -}}
{{- fail "bulk.enabled needs bulk.input and bulk.output" -}}
{{- end -}}
{{- if gt (int64 .parallelism) (int64 .completions) -}}
{{- fail "bulk.parallelism is above bulk.completions: the pods beyond would have nothing to do" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (has (include "llambert.text" .Values.strategy.maxSurge) (list "0" "0%")) (has (include "llambert.text" .Values.strategy.maxUnavailable) (list "0" "0%")) -}}
{{- fail "strategy.maxSurge and strategy.maxUnavailable are both 0: a rollout could never begin" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled needs httpRoute.parentRefs: the Gateway that it belongs to" -}}
{{- end -}}
{{- if and .Values.mlflow.enabled (not .Values.mlflow.backendStore.existingSecret) -}}
{{- fail "mlflow.enabled needs mlflow.backendStore.existingSecret: a Secret with PostgreSQL's address as postgresql+psycopg://user:password@host:5432/mlflow" -}}
{{- end -}}
{{- end -}}

{{/* (list $ "key" model) */}}
{{- define "llambert.checks.model" -}}
{{- $root := index . 0 }}{{ $key := index . 1 }}{{ $model := index . 2 -}}
{{- if and (eq $model.source "pvc") (not $model.existingClaim) -}}
{{- fail (printf "%s.source is pvc: %s.existingClaim must name the claim that holds the model" $key $key) -}}
{{- end -}}
{{- if eq $model.source "mlflow" -}}
{{- if not $model.name -}}
{{- fail (printf "%s.source is mlflow: %s.name must name the registered model" $key $key) -}}
{{- end -}}
{{- if not (or (include "llambert.text" $model.version) $model.alias) -}}
{{- fail (printf "%s.source is mlflow: %s.version or %s.alias must be given" $key $key $key) -}}
{{- end -}}
{{- if not (include "llambert.trackingUri" $root) -}}
{{- fail (printf "%s.source is mlflow: model.trackingUri or mlflow.enabled must be given" $key) -}}
{{- end -}}
{{- if and (include "llambert.text" $model.version) (gt (int64 $model.pollSeconds) 0) -}}
{{- fail (printf "%s.version and %s.pollSeconds exclude each other: a version doesn't move, so there is nothing to look up" $key $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
