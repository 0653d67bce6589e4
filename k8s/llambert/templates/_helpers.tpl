{{/* The chart's name in labels. */}}
{{- define "llambert.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* RELEASE-llambert. Names of Services hold no dots and begin with a letter; names of releases need not. */}}
{{- define "llambert.base" -}}
{{- $name := include "llambert.name" . -}}
{{- $release := replace "." "-" .Release.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if regexMatch "^[0-9]" $release -}}
{{- printf "%s-%s" $name $release -}}
{{- else if contains $name $release -}}
{{- $release -}}
{{- else -}}
{{- printf "%s-%s" $release $name -}}
{{- end -}}
{{- end -}}

{{/* Names of the release's things: (list $ "suffix"). At most 56 characters, since an Indexed Job adds its index within 63;
     what is longer is cut and told apart by a hash. */}}
{{- define "llambert.named" -}}
{{- $base := include "llambert.base" (first .) -}}
{{- $suffix := last . | empty | ternary "" (printf "-%s" (last .)) -}}
{{- $room := sub 56 (len $suffix) | int -}}
{{- if gt (len $base) $room -}}
{{- $base = printf "%s-%s" (trunc (sub $room 9 | int) $base | trimSuffix "-") (sha256sum $base | trunc 8) -}}
{{- end -}}
{{- print $base $suffix -}}
{{- end -}}

{{- define "llambert.fullname" -}}
{{- include "llambert.named" (list . "") -}}
{{- end -}}

{{/* Stable and canary in a regular expression: their Services and Deployments are called so. */}}
{{- define "llambert.tracks" -}}
{{- printf "%s|%s" (include "llambert.fullname" .) (include "llambert.named" (list . "canary")) -}}
{{- end -}}

{{- define "llambert.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* (list $ "component") */}}
{{- define "llambert.selectorLabels" -}}
app.kubernetes.io/name: {{ include "llambert.name" (first .) | quote }}
app.kubernetes.io/instance: {{ (first .).Release.Name | quote }}
app.kubernetes.io/component: {{ last . }}
{{- end -}}

{{/* (list $ "component") */}}
{{- define "llambert.labels" -}}
{{- $root := first . -}}
helm.sh/chart: {{ include "llambert.chart" $root }}
{{ include "llambert.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/part-of: llambert
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- end -}}

{{/* Labels of pods: nothing of the chart's version, which would restart them without a reason. (list $ "component") */}}
{{- define "llambert.podLabels" -}}
{{ include "llambert.selectorLabels" . }}
app.kubernetes.io/part-of: llambert
{{- end -}}

{{/* metadata of a thing: (list $ "suffix" "component") */}}
{{- define "llambert.metadata" -}}
name: {{ include "llambert.named" (list (index . 0) (index . 1)) | quote }}
namespace: {{ (index . 0).Release.Namespace | quote }}
labels:
  {{- include "llambert.labels" (list (index . 0) (index . 2)) | nindent 2 }}
{{- end -}}

{{- define "llambert.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "llambert.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Address of an image: (list $ image) */}}
{{- define "llambert.image" -}}
{{- $image := last . -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default (first .).Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Values over their overrides: (list defaults overrides), as YAML. */}}
{{- define "llambert.over" -}}
{{- mergeOverwrite (deepCopy (first .)) (deepCopy (last .)) | toYaml -}}
{{- end -}}

{{/* Address of MLflow. */}}
{{- define "llambert.trackingUri" -}}
{{- if .Values.mlflow.enabled -}}
{{- printf "http://%s:%d" (include "llambert.named" (list . "mlflow")) (int64 .Values.mlflow.service.port) -}}
{{- else -}}
{{- .Values.model.trackingUri -}}
{{- end -}}
{{- end -}}

{{/* Whether an autoscaler owns the replicas. */}}
{{- define "llambert.autoscaled" -}}
{{- if or .Values.autoscaling.hpa.enabled .Values.autoscaling.keda.enabled }}true{{ end -}}
{{- end -}}
